"""What should be served, and when to check whether that differs from what is served."""

from dataclasses import dataclass, field
from pathlib import Path

from serving.repository import default_packages
from serving.supervisor.messages import Said
from serving.supervisor.reload_backoff import ReloadBackoff
from vaeport.errors import PackageError

Packages = tuple[Path, ...]  # a folder for each model


@dataclass(slots=True)
class Wanted:
    """The default version of each model, without those that a caller has unloaded.

    Attributes:
        models: the folder of models; see default_packages.
        watch: seconds between two looks without being asked; 0 means never.
        asked: whether a reload was asked for. Signal handlers set it.
        unloaded: names of models that are left out until a caller asks for them.
        backoff: what has been tried and refused.
    """

    models: Path
    watch: float
    asked: bool = False
    unloaded: set[str] = field(default_factory=set)
    backoff: ReloadBackoff = field(default_factory=ReloadBackoff)
    _look_at: float = 0.0

    def hear(self, said: Said, model: str, current: Packages) -> None:
        """Note that a caller wants a model loaded or unloaded. The last model is never unloaded."""
        self.unloaded.discard(model)
        if said is Said.UNLOAD and {path.parent.name for path in current} - self.unloaded - {model}:
            self.unloaded.add(model)
        self.asked = True

    def due(self, current: Packages, now: float) -> Packages | None:
        """The packages of a reload that should begin now; None if none should.

        Args:
            current: what is served.
            now: on the supervisor's clock.

        Raises:
            PackageError, OSError: the packages cannot be served, and this has not been reported lately.
        """
        asked, self.asked = self.asked, False
        if not asked and not (self.watch and now >= self._look_at):
            return None
        self._look_at = now + self.watch
        try:
            packages = self._packages()
        except (PackageError, OSError) as error:
            if asked or self.backoff.may_try(str(error), now):
                raise
            return None
        if asked:
            return packages
        if packages == current:
            self.backoff.forget()
            return None
        return packages if self.backoff.may_try(packages, now) else None

    def _packages(self) -> Packages:
        found = default_packages(self.models)
        return tuple(path for path in found if path.parent.name not in self.unloaded) or found
