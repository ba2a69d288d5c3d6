"""Ways to spoil a package, each drawn from a random generator: what a stranger could send."""

import contextlib
import hashlib
import itertools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from safetensors.numpy import save

from vaeport.graph_rules import OPERATORS

Mutation = Callable[[Path, Path, Random], None]
"""Changes the package in the first folder. The second is outside, and what is in it must not be opened."""

SECRET = "secret"  # noqa: S105 - the name of a file
BINARIES = ("encoder.onnx", "decoder.onnx", "golden.safetensors")
DEEP, LONG = (5, 60, 300, 500, 700, 850, 900, 950, 1000, 5000, 100_000), (100, 10_000, 900_000)
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**30, 10**4000, 0.5, -0.0, 1e308, 5e-324, 1e999)
WORDS = (
    *("batch", "..", "float32", "true", "vaeport/2", "1e9"),
    *("", "\0", "\ud800", "\udcff", "\U0001f600", "vaeport/1\n"),
)
PATHS = (
    *("../outside/secret", "/etc/passwd", "../../..", ".", "..", "a/../../outside/secret", "a//b", "./a", "a\\b"),
    *("manifest.json", "README.md/x", "~/x", "file:///etc/passwd", "\0", " ", "\ud800", "x" * 300, "x/" * 2000 + "x"),
)
ATTRIBUTES = (
    *("axis", "perm", "pads", "strides", "dilations"),
    *("group", "kernel_shape", "transA", "alpha", "allowzero"),
)


def value(chance: Random) -> Any:
    """Something that a field is not."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: chance.choice(NUMBERS),
        lambda: chance.choice(WORDS),
        lambda: chance.choice(PATHS),
        lambda: "x" * chance.choice(LONG),
        lambda: chance.choice((None, True, False, [], {}, [[]], {"": {}})),
        lambda: [chance.choice(NUMBERS)] * chance.choice((1, 3, 4, 1000, 50_000)),
        lambda: {str(i): i for i in range(chance.choice((1, 30, 20_000)))},
        lambda: deep(chance),
    )
    return chance.choice(kinds)()


class Raw(str):
    """JSON that is written as it is, since json.dumps would not write it."""


def deep(chance: Random) -> Raw:
    """Arrays in arrays, or objects in objects."""
    depth = chance.choice(DEEP)
    left, right = chance.choice((("[", "]"), ('{"a":', "}"), ('[{"":', "}]")))
    return Raw(left * depth + chance.choice(("0", "", '"x"')) + right * (depth if chance.random() < 0.8 else 0))


def dumps(tree: Any) -> str:
    """JSON, with what is `Raw` as it is, and with lists of pairs for objects that have a key twice."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in tree) + "}"
    if isinstance(tree, dict):
        return dumps(Pairs(tree.items()))
    if isinstance(tree, list):
        return "[" + ",".join(map(dumps, tree)) + "]"
    return json.dumps(tree)


class Pairs(list[tuple[str, Any]]):
    """An object that may have a key twice."""


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        found += [(tree, key), *places(tree[key])]
    return found


def spoil(tree: Any, chance: Random) -> Any:
    """Change a few places of a JSON value."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if not (found := places(tree)):
            break
        container, key = chance.choice(found)
        how = chance.randrange(6)
        if how == 0:
            del container[key]
        elif how == 1 and isinstance(container, dict):
            container[chance.choice((*WORDS, "extra", *container))] = value(chance)
        elif how == 2 and isinstance(container, list):
            container.insert(key, container[key])
        elif how == 3 and isinstance(container[key], dict):
            container[key] = Pairs([*container[key].items(), *list(container[key].items())[:1]])
            break  # what is in it is no longer to be walked
        elif how == 4 and isinstance(container[key], str):
            container[key] = chance.choice(PATHS)
        else:
            container[key] = value(chance)
            if isinstance(container[key], Raw):
                break
    return tree


def manifest_fields(folder: Path, _: Path, chance: Random) -> None:
    path = folder / "manifest.json"
    path.write_text(dumps(spoil(json.loads(path.read_text()), chance)))


def manifest_figures(folder: Path, _: Path, chance: Random) -> None:
    """Others to compare scores with."""
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    training = tree["training"]
    quantiles = training["evaluation"]["elbo_quantiles"]
    container, key = chance.choice(
        (
            (training, "evaluation"),
            (training["evaluation"], "elbo_quantiles"),
            (quantiles, chance.choice(sorted(quantiles))),
            (quantiles, chance.choice(WORDS)),
        )
    )
    container[key] = value(chance)
    path.write_text(dumps(tree))


def manifest_paths(folder: Path, _: Path, chance: Random) -> None:
    """A path that leads elsewhere, listed as it must be."""
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    entry = chance.choice(tree["files"])
    before, entry["path"] = entry["path"], chance.choice(PATHS)
    for graph in tree["graphs"].values():
        graph["path"] = entry["path"] if graph["path"] == before else graph["path"]
    tree["files"].sort(key=lambda e: e["path"])
    path.write_text(json.dumps(tree))


def some_bytes(data: bytes, chance: Random) -> bytes:
    """Other bytes than these."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(len(changed) + 1)
        how = chance.randrange(6)
        if how == 0:
            del changed[at:]
        elif how == 1:
            changed[at:at] = chance.randbytes(chance.choice((1, 2, 9, 100)))
        elif how == 2:
            length = chance.choice((1, 4, 50, 1000))
            changed[at : at + length] = changed[at : at + length] * chance.choice((0, 2, 50))
        elif how == 3:
            changed[at : at + 8] = chance.choice((b"\xff" * 8, b"\0" * 8, b"\x80" * 8 + b"\x01", b"\x7f" * 8))
        elif at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def manifest_bytes(folder: Path, _: Path, chance: Random) -> None:
    path = folder / "manifest.json"
    nothing_left = chance.random() < 0.2
    path.write_bytes(
        chance.randbytes(chance.choice((0, 1, 100, 2 << 20))) if nothing_left else some_bytes(path.read_bytes(), chance)
    )


def put(folder: Path, name: str, data: bytes) -> None:
    """A file with other content, in a manifest that says so."""
    (folder / name).write_bytes(data)
    relist(folder, name, len(data), hashlib.sha256(data).hexdigest())


def relist(folder: Path, name: str, size: int, digest: str) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    entry = next(e for e in tree["files"] if e["path"] == name)
    entry.update(size=size, sha256=digest)
    path.write_text(json.dumps(tree))


def binary_bytes(folder: Path, _: Path, chance: Random) -> None:
    name = chance.choice((*BINARIES, "checkpoint.safetensors"))
    put(folder, name, some_bytes((folder / name).read_bytes(), chance))


def golden_header(folder: Path, _: Path, chance: Random) -> None:
    data = (folder / "golden.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = dumps(spoil(json.loads(data[8 : 8 + length]), chance)).encode()
    said = chance.choice((len(header), len(header), len(header), 2**63, 0, length))
    put(folder, "golden.safetensors", said.to_bytes(8, "little") + header + data[8 + length :])


def golden_shape(folder: Path, _: Path, chance: Random) -> None:
    """Very many or very large axes, in a header that is otherwise right."""
    data = (folder / "golden.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + length])
    entry = tree[chance.choice(sorted(key for key in tree if key != "__metadata__"))]
    axis = chance.choice((0, 1, 2, 3, 2**27, 2**28))
    entry["shape"] = [*entry["shape"][: chance.randrange(3)], *[axis] * chance.choice((1, 5, 40, 70, 90_000))]
    header = json.dumps(tree, separators=(",", ":")).encode()
    put(folder, "golden.safetensors", len(header).to_bytes(8, "little") + header + data[8 + length :])


def golden_rows(folder: Path, _: Path, chance: Random) -> None:
    """Other rows than there should be: none, many, of another dtype or not finite."""
    tree = json.loads((folder / "manifest.json").read_text())
    rows = chance.choice((0, 1, 9, 20_000))
    tensors = {}
    for role, graph in tree["graphs"].items():
        for tensor in (*graph["inputs"], *graph["outputs"]):
            shape = (rows, *tensor["shape"][1:])
            number = chance.choice((0.0, 1.0, np.nan, np.inf))
            if tensor in graph["inputs"]:
                tensors[f"{role}/{tensor['name']}"] = np.full(shape, number, chance.choice((np.float32, np.float64)))
            else:
                tensors[f"{role}/{tensor['name']}/truth"] = np.full(shape, number)
                tensors[f"{role}/{tensor['name']}/limit"] = np.full(shape, number)
    put(folder, "golden.safetensors", save(tensors))


def graph_structure(folder: Path, outside: Path, chance: Random) -> None:
    """A graph that still parses, with something in it that should not be."""
    name = chance.choice(("encoder.onnx", "decoder.onnx"))
    proto = onnx.load(folder / name)
    with contextlib.suppress(DecodeError):  # what an earlier change has made, a later one cannot copy
        for _ in range(chance.choice((1, 1, 2, 4))):
            chance.choice(GRAPH_CHANGES)(proto, outside, chance)
    put(folder, name, proto.SerializeToString())


def _node(proto: onnx.ModelProto, chance: Random) -> onnx.NodeProto:
    return chance.choice(list(proto.graph.node) or [proto.graph.node.add()])


def _operator(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    _node(proto, chance).op_type = chance.choice(
        (*OPERATORS, "If", "Loop", "Constant", "ConstantOfShape", "", "x" * 999)
    )


def _dims(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    tensor = chance.choice(list(proto.graph.initializer) or [proto.graph.initializer.add()])
    if tensor.dims and chance.random() < 0.7:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice((0, -1, 1, 7, 2**31, 2**40, 2**62))
    else:
        tensor.dims.append(chance.choice((0, -1, 2, 2**40, 2**62)))


def _data(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    tensor = chance.choice(list(proto.graph.initializer) or [proto.graph.initializer.add()])
    tensor.raw_data = chance.choice((b"", b"\0", tensor.raw_data[:-1], tensor.raw_data * 2, b"\xff" * 8))


def _kind(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    tensor = chance.choice(list(proto.graph.initializer) or [proto.graph.initializer.add()])
    tensor.data_type = chance.choice((0, 2, 6, 7, 8, 10, 11, 14, 16, 21, 23, 99, -1))


def _outside(proto: onnx.ModelProto, outside: Path, chance: Random) -> None:
    tensor = chance.choice(list(proto.graph.initializer) or [proto.graph.initializer.add()])
    location = chance.choice((str(outside / SECRET), f"../{outside.name}/{SECRET}", "README.md"))
    tensor.external_data.add(key="location", value=location)
    if chance.random() < 0.8:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")


def _wires(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    node, other = _node(proto, chance), _node(proto, chance)
    names = chance.choice((other.output, other.input, [""], ["nowhere"], [*node.input, "", ""] * 9))
    target = node.input if chance.random() < 0.7 else node.output
    kept = list(names)
    del target[:]
    target.extend(kept)


def _attribute(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    name = chance.choice(ATTRIBUTES)
    number = chance.choice((0, -1, 1, 3, 2**31, 2**40, 2**63 - 1, -(2**63)))
    content: Any = chance.choice((number, [number], [number] * 2, [number] * 4, [1] * 5000, 1e38, "text"))
    node = _node(proto, chance)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, content)])


def _nested(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    graph = onnx.GraphProto(name="inner")
    for _depth in range(chance.choice((1, 10, 40))):
        graph, inner = onnx.GraphProto(name="outer"), graph
        node = graph.node.add(op_type="If")
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
    _node(proto, chance).attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)


def _repeat(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    proto.graph.node.extend([_node(proto, chance)] * chance.choice((1, 2, 3000)))


def _chain(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    """Very many nodes, one after the other, before the first."""
    first = proto.graph.node[0] if proto.graph.node else proto.graph.node.add()
    if not first.input:
        return
    count = chance.choice((10, 5000))
    names = [first.input[0], *(f"chain{i}" for i in range(count))]
    nodes = [onnx.helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    first.input[0] = names[-1]
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])


def _shape_of_value(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    info = chance.choice((*proto.graph.input, *proto.graph.output, *proto.graph.value_info))
    axis = info.type.tensor_type.shape.dim.add()
    axis.dim_value = chance.choice((0, -1, 1, 2**40, 2**63 - 1))


def _constant(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    """A large tensor made of small ones, which a runtime may compute when it loads."""
    large = chance.choice((1, 1000, 2**20, 2**27, 2**31, 2**40))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([large], np.int64), "large"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "one"))
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.append(onnx.helper.make_node(chance.choice(("Expand", "Reshape")), ["one", "large"], ["folded"]))
    proto.graph.node.extend(rest)
    node = _node(proto, chance)
    if node.input:
        node.input[chance.randrange(len(node.input))] = "folded"


def _names(proto: onnx.ModelProto, _: Path, chance: Random) -> None:
    part = chance.choice((proto.graph, _node(proto, chance), proto.graph.output[0]))
    part.name = chance.choice(("", "x" * 100_000, "a\0b", "../x", "\U0001f600"))


GRAPH_CHANGES = (
    *(_operator, _dims, _data, _kind, _outside, _wires, _attribute, _nested),
    *(_repeat, _chain, _shape_of_value, _constant, _names),
)


def graph_text(folder: Path, _: Path, chance: Random) -> None:
    """A name that is no UTF-8."""
    name = chance.choice(("encoder.onnx", "decoder.onnx"))
    data = (folder / name).read_bytes()
    word = chance.choice((b"Gemm", b"latent", b"image", b"Relu", b"mean", b"logits", b"batch", b"vaeport"))
    put(folder, name, data.replace(word, b"\xff" * len(word)))


def replaced_by_link(folder: Path, outside: Path, chance: Random) -> None:
    path = folder / chance.choice(("manifest.json", "README.md", *BINARIES))
    data = path.read_bytes()
    path.unlink()
    target = outside / (SECRET if chance.random() < 0.5 else path.name)
    if target.name != SECRET:
        target.write_bytes(data)  # what it says in the manifest, but elsewhere
    path.symlink_to(
        chance.choice((str(target), f"../{outside.name}/{target.name}", "/dev/zero", "manifest.json", path.name))
    )


def linked_folder(folder: Path, outside: Path, chance: Random) -> None:
    (folder / chance.choice(("extra", "zzz"))).symlink_to(chance.choice((str(outside), "/", ".", "..", "/proc")))


def hard_link(folder: Path, outside: Path, chance: Random) -> None:
    """Of a file elsewhere: its content counts, as of any file. The link is made of a copy, which may be opened."""
    path = folder / chance.choice(("README.md", *BINARIES))
    other = outside / "linked"
    other.write_bytes(chance.choice((b"other", path.read_bytes())))
    path.unlink()
    os.link(other, path)


def special_file(folder: Path, _: Path, chance: Random) -> None:
    path = folder / chance.choice(("manifest.json", "encoder.onnx", "extra"))
    path.unlink(missing_ok=True)
    if chance.random() < 0.5:
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))  # a path of a socket must be short


def sparse(folder: Path, _: Path, chance: Random) -> None:
    """A file that says to be huge, in a manifest that agrees."""
    name, size = chance.choice((*BINARIES, "README.md", "manifest.json")), chance.choice((2**28, 2**33, 2**40, 2**42))
    with (folder / name).open("r+b") as file:
        file.truncate(size)
    if name != "manifest.json":
        relist(folder, name, size, hashlib.sha256(b"").hexdigest())


def extra(folder: Path, _: Path, chance: Random) -> None:
    """Files and folders that nobody listed: many, deep, with odd names."""
    how = chance.randrange(4)
    if how == 0:
        for number in range(chance.choice((1, 2000))):
            (folder / f"extra{number}").touch()
    elif how == 1:
        for number in range(500):
            (folder / f"folder{number}").mkdir()
    elif how == 2:
        deepest = folder
        for _depth in range(chance.choice((3, 200))):
            deepest /= "d" * 10
        deepest.mkdir(parents=True)
    else:
        (folder / os.fsdecode(chance.choice((b"\xff\xfe", b"new\nline", b"x" * 255, b" ")))).touch()


def swapped(folder: Path, _: Path, chance: Random) -> None:
    """A folder where a file should be, or nothing."""
    path = folder / chance.choice(("manifest.json", "README.md", *BINARIES))
    path.unlink()
    if chance.random() < 0.6:
        path.mkdir()


MANIFEST: tuple[Mutation, ...] = (manifest_fields, manifest_figures, manifest_paths, manifest_bytes)
FOLDER: tuple[Mutation, ...] = (replaced_by_link, linked_folder, hard_link, special_file, sparse, extra, swapped)
GOLDEN: tuple[Mutation, ...] = (golden_header, golden_shape, golden_rows)
GRAPHS: tuple[Mutation, ...] = (graph_structure, graph_text, binary_bytes)
