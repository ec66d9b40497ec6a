"""Cleaning a scene of what hangs in the air: proposed first, removed by the person."""

from __future__ import annotations

from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.selection import Selection
from splatseg.segment.floaters import FloaterConfig, find_floaters
from splatseg.session.locked import locked
from splatseg.session.object_steps import PROPOSED
from splatseg.session.steps import SessionSteps


class CleanSteps(SessionSteps):
    """The proposal, which is a selection like any other; :meth:`Session.remove_floaters` takes it out of sight."""

    @locked
    def propose_floaters(self, config: FloaterConfig | None = None, job: Reporter = SILENT) -> Selection:
        """Select what :func:`splatseg.segment.floaters.find_floaters` finds of what is visible; the photos' cameras are
        asked where they are at hand. Seconds to a minute: ``job`` reports and cancels.

        Raises:
            SplatsegError: there are none.
        """
        space = self.workspace
        cameras = [view.camera for view in space.views]
        touching = space.touching(lambda share: job.report("looking what touches", 0.2 * share))
        seen = None
        if cameras:
            seen = space.visibility(lambda share: job.report("looking through the photos", 0.2 + share / 2))
        rest = lambda step, share: job.report(step, max(share, 0.7))  # noqa: E731 (what came before is known by now)
        found = find_floaters(space.gaussians, cameras, config, touching, seen, rest)
        hidden = self.hidden()
        if hidden is not None:
            found = Selection(found.mask & ~hidden)
        if not len(found):
            raise SplatsegError("clean: expected something that hangs in the air, found nothing")
        return self._select(PROPOSED, found)

    @property
    def proposing(self) -> bool:
        """Whether the selection is a proposal of floaters as it was made, not changed since."""
        return self.step.label == PROPOSED
