"""The image. No test builds one: that needs a daemon. They read its file, and follow its steps in a folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from tests.deploy.flags import known, names, value
from tests.support import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"
DEPLOYMENT = ROOT / "deploy/kubernetes/deployment.yaml"


def instructions() -> list[tuple[str, str]]:
    """Every instruction and its value, lines put together."""
    parser = DockerfileParser(fileobj=BytesIO(DOCKERFILE.read_bytes()))
    return [(each["instruction"], each["value"]) for each in parser.structure if each["instruction"] != "COMMENT"]


def values(instruction: str) -> list[str]:
    return [text for name, text in instructions() if name == instruction]


def copied() -> Iterator[tuple[list[str], str]]:
    """Sources in the context, and the destination, of each COPY from it."""
    for text in values("COPY"):
        if not text.startswith("--from="):
            *sources, destination = text.split()
            yield sources, destination


def in_context() -> set[str]:
    """What .dockerignore lets in, of the root; it has but `*` and exceptions to it, and what is left out everywhere."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert [line for line in lines[1:] if not line.startswith("!")] == ["**/__pycache__"]
    return {line[1:] for line in lines if line.startswith("!")}


def test_what_is_copied_is_there_and_in_the_context() -> None:
    sources = {source for names, _ in copied() for source in names}
    assert all((ROOT / source).exists() for source in sources)
    assert sources == in_context()  # nothing is missing, nothing is sent for nothing


def test_the_context_has_no_torch_code() -> None:
    assert not in_context() & {"training", "export", "tests", "benchmarks"}


def test_what_the_wheel_is_made_from_is_copied() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= in_context()
    assert {"serve", "sign", "cpu", "cuda"} <= project["optional-dependencies"].keys()


def test_it_runs_as_nobody_and_stops_by_the_signal_that_drains() -> None:
    (user,) = values("USER")
    assert int(user.split(":")[0]) > 0  # a number: Kubernetes cannot tell from a name that it is not root
    pod = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_the_entry_point_gets_the_signals_and_its_flags_are_settings() -> None:
    (entry,) = values("ENTRYPOINT")
    assert json.loads(entry) == ["python", "-m", "serving"]  # no shell between: it would keep the signals
    arguments = json.loads(values("CMD")[-1])
    assert set(names(arguments)) <= known()
    assert f":{value(arguments, '--http-port')}/healthz" in values("HEALTHCHECK")[0]
    assert values("EXPOSE") == [f"50051 {value(arguments, '--http-port')}"]


def test_the_check_of_health_is_python_that_fails_where_nobody_answers() -> None:
    command = json.loads(values("HEALTHCHECK")[0].partition("CMD ")[2])
    code = command[2].replace(":8080/", ":1/")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


@dataclass
class Replay:
    """Follows the steps of the file in a folder that stands for the image's root. Both stages have the one folder."""

    root: Path
    arguments: dict[str, str]
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: str = "/"

    def follow(self, instruction: str, text: str) -> None:
        """One step; those without an effect on files have none here."""
        if instruction == "ARG":
            name, _, default = text.partition("=")
            self.environment[name] = self.arguments.get(name, default)
        elif instruction == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in text.split() if not pair.startswith("PATH="))
        elif instruction == "WORKDIR":
            self.folder = text
            self.inside(text).mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY" and not text.startswith("--from="):
            *sources, destination = text.split()
            self.copy(sources, self.inside(destination))
        elif instruction == "RUN":
            script = text.replace("/opt/", f"{self.root}/opt/")
            subprocess.run(["sh", "-ec", script], cwd=self.inside("."), env=self.environment, check=True, timeout=600)

    def inside(self, path: str) -> Path:
        """A path of the image."""
        return self.root / str(Path(self.folder) / path).lstrip("/")

    def copy(self, sources: list[str], target: Path) -> None:
        """As COPY does: what is in a folder, not the folder itself."""
        for source in (ROOT / name for name in sources):
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)


@pytest.mark.soak
def test_what_its_steps_install_serves_and_has_no_torch(models: Path, tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    replay = Replay(tmp_path, {"RUNTIME": "cpu"}, environment)
    for instruction, text in instructions():
        replay.follow(instruction, text)
    python, app = str(tmp_path / "opt/vaeport/bin/python"), tmp_path / "opt/vaeport/app"
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert "onnxruntime " in listed
    assert "onnxruntime-gpu" not in listed
    assert "torch" not in listed
    look = "import sys, serving.worker, vaeport; print(serving.__file__, vaeport.__file__, 'torch' in sys.modules)"
    said = subprocess.run([python, "-c", look], cwd=app, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == str(app / "serving/__init__.py")
    assert said[1].startswith(str(tmp_path / "opt/vaeport/lib"))
    assert said[2] == "False"
    assert list((app / "serving").rglob("*.pyc"))
    doctor = [python, "-m", "serving", "doctor", "--models", str(models), "--port", "0", "--device", "cpu"]
    subprocess.run(doctor, cwd=app, check=True, timeout=60)
    serve = [python, "-m", "serving", "--models", str(models), "--port", "0", "--workers", "1"]
    with subprocess.Popen(serve, cwd=app, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready ")
        server.terminate()
    assert server.returncode == 0
