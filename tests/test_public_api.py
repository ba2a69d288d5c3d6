"""The public lists are explicit, complete and importable."""

import re
import types
from pathlib import Path

import pytest
from mypy import api

import training
import vaeport


@pytest.mark.parametrize("module", [vaeport, training])
def test_every_listed_name_is_there(module: types.ModuleType) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_training_exports_the_model_and_its_loss() -> None:
    assert sorted(training.__all__) == ["VAE", "kl_divergence", "reparameterize", "vae_loss"]


def test_vaeport_exports_what_services_use() -> None:
    errors = [name for name in vaeport.__all__ if name.endswith("Error")]
    others = sorted(set(vaeport.__all__) - set(errors))
    clients, results = ["AsyncClient", "Client"], ["Encoding", "ModelInfo", "Preprocessing", "Scores", "ServerInfo"]
    assert others == sorted([*clients, *results, "Model", "TLS", "__version__", "load"])
    assert all(issubclass(getattr(vaeport, name), vaeport.VaeportError) for name in errors)


def test_every_error_of_the_tree_is_exported() -> None:
    from vaeport import errors

    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined <= set(vaeport.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        vaeport.Clint  # type: ignore[attr-defined]  # noqa: B018


def test_a_type_checker_takes_what_the_documentation_offers_and_sees_a_name_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text("""from pathlib import Path
import numpy as np
import vaeport
from vaeport import Clinet
with vaeport.Client("localhost:50051") as client:
    client.encode([Path("a.png"), "b.png", np.zeros((2, 2))])
    client.encode(iter([Path("a.png")]))
    posterior = client.encode(sorted(Path("photos").glob("*.png")))
    posterior.sample(seed=np.uint64(7))
    client.sample(1, seed=np.int64(7))
    client.sample(1, seed="7")
    client.encode(None)
""")
    flags = ["--config-file=", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    said, _, _ = api.run([*flags, str(tmp_path / "typed.py")])
    assert re.findall(r"typed.py:(\d+): error", said) == ["4", "11", "12"], said
