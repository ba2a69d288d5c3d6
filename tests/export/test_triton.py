"""What Triton's own message definitions read in our repository is what the manifest says."""

import hashlib
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.errors import ExportError
from export.triton import write_triton
from tests.export.test_verify import edit_manifest
from vaeport.package import open_package

TYPES = {"float32": model_config_pb2.TYPE_FP32}


def parse(path: Path) -> "model_config_pb2.ModelConfig":
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("name", ["digits", "colour"])
def test_the_repository_says_what_the_manifest_says(two_models: Path, tmp_path: Path, name: str) -> None:
    manifest = open_package(two_models / name / "1").manifest
    folders = write_triton(two_models / name / "1", tmp_path / "repository")
    assert folders == [tmp_path / "repository" / f"{name}_{role}" / "1" for role in ("encoder", "decoder")]
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    for role, folder in zip(("encoder", "decoder"), folders, strict=True):
        read, graph = parse(folder.parent / "config.pbtxt"), manifest.graphs[role]
        assert (read.name, read.platform, read.backend) == (f"{name}_{role}", "onnxruntime_onnx", "onnxruntime")
        for tensors, specs in ((read.input, graph.inputs), (read.output, graph.outputs)):
            got = [(tensor.name, tensor.data_type, ("batch", *tensor.dims)) for tensor in tensors]
            assert got == [(spec.name, TYPES[spec.dtype], spec.shape) for spec in specs]
        assert [path.name for path in folder.iterdir()] == ["model.onnx"]
        assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == digests[graph.path]
        assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "config.pbtxt"]
        assert folder.stat().st_mode & 0o777 == 0o755  # Triton runs as somebody else


@pytest.mark.parametrize(
    ("rows", "preferred"), [(256, [8, 32, 128, 256]), (100, [8, 32, 100]), (8, [8]), (1, [1])], ids=str
)
def test_preferred_batches_end_with_the_largest(package: Path, tmp_path: Path, rows: int, preferred: list[int]) -> None:
    folder, _ = write_triton(package, tmp_path, max_rows=rows)
    read = parse(folder.parent / "config.pbtxt")
    assert (read.max_batch_size, list(read.dynamic_batching.preferred_batch_size)) == (rows, preferred)


@pytest.mark.parametrize(("device", "kind"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")])
def test_one_instance_on_the_device_that_was_asked_for(package: Path, tmp_path: Path, device: str, kind: str) -> None:
    folder, _ = write_triton(package, tmp_path, device=device)
    read = parse(folder.parent / "config.pbtxt")
    (group,) = read.instance_group
    assert (group.count, model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)) == (1, kind)
    (cuda,) = read.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    assert read.parameters["intra_op_thread_count"].string_value == "0"


def test_a_second_version_comes_beside_the_first_and_none_is_written_over(package: Path, tmp_path: Path) -> None:
    write_triton(package, tmp_path / "repository")
    with pytest.raises(ExportError, match="digits_encoder/1: is there already"):
        write_triton(package, tmp_path / "repository")
    second = Path(shutil.copytree(package, tmp_path / "digits" / "2"))
    edit_manifest(second, lambda manifest: manifest.update(version=2))
    with pytest.raises(ExportError, match=r"config\.pbtxt: is there already, and not what this package needs"):
        write_triton(second, tmp_path / "repository", max_rows=7)
    encoder, decoder = write_triton(second, tmp_path / "repository")
    assert [path.name for path in sorted(encoder.parent.iterdir())] == ["1", "2", "config.pbtxt"]
    assert [path.name for path in sorted(decoder.parent.iterdir())] == ["1", "2", "config.pbtxt"]


@pytest.mark.parametrize("rows", [0, 2**31])
def test_a_batch_that_triton_cannot_count_is_refused(package: Path, tmp_path: Path, rows: int) -> None:
    with pytest.raises(ExportError, match=f"--max-batch-rows: expected 1 to 2147483647, got {rows}"):
        write_triton(package, tmp_path, max_rows=rows)
    folder, _ = write_triton(package, tmp_path, max_rows=2**31 - 1)
    assert parse(folder.parent / "config.pbtxt").max_batch_size == 2**31 - 1
