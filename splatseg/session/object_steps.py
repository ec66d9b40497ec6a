"""Objects that a session keeps, as steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from splatseg.core.errors import SplatsegError
from splatseg.core.extent import middle_box
from splatseg.session import label_edit
from splatseg.session.copies import Placement, Quaternion, Vector
from splatseg.session.locked import locked
from splatseg.session.shared import Change, Color, Content, SceneObject, check_color, clean_name
from splatseg.session.steps import SessionSteps

PROPOSED = "floaters"  # label of the step that proposes them; what is selected then is shown in red
RED: Color = (235, 30, 30)


def _free(stem: str) -> Callable[[Content], str]:
    """The first of ``stem 1``, ``stem 2``, ... that is no object's name."""

    def name(content: Content) -> str:
        taken = {entry.name for entry in content.objects.values()}
        return next(f"{stem} {i}" for i in range(1, len(taken) + 2) if f"{stem} {i}" not in taken)

    return name


class ObjectSteps(SessionSteps):
    """Keeping the selection as a named object, and what is done with it."""

    @locked
    def keep(self, name: str, color: Color | None = None, visible: bool = True) -> SceneObject:
        """Keep the selection as a named object.

        Raises:
            SplatsegError: nothing is selected, no name, or a bad color.
        """
        cleaned = clean_name(name)
        return self._keep(f"keep {cleaned}", lambda content: cleaned, color, visible)

    @locked
    def hide_selection(self) -> SceneObject:
        """Take the selection out of sight, as a hidden object; :meth:`show` brings it back."""
        return self._keep("hide", _free("hidden"), None, False)

    @locked
    def remove_floaters(self) -> SceneObject:
        """Take out of sight what :meth:`Session.propose_floaters` proposed, as a hidden object; exports leave it out.

        Raises:
            SplatsegError: nothing is proposed, or the proposal was changed since.
        """
        if self.step.label != PROPOSED:
            raise SplatsegError("clean: expected the floaters to be proposed, found another selection; find them first")
        return self._keep("remove floaters", _free(PROPOSED), RED, False)

    def _keep(self, label: str, name: Callable[[Content], str], color: Color | None, visible: bool) -> SceneObject:
        chosen = self.selection
        if not len(chosen):
            raise SplatsegError("keep: expected something selected, found nothing")
        key = self.workspace.shared.new_id()
        paint = label_edit.object_color(key) if color is None else check_color(color)

        def edit(content: Content) -> Change:
            return Change({key: None}, {key: SceneObject(key, name(content), paint, chosen.ids.int(), visible)})

        entry = self._share(label, edit).after[key]
        assert entry is not None
        return entry

    @locked
    def duplicate(self, key: int | str, name: str | None = None) -> SceneObject:
        """Copy an object, or a copy, as a layer of its own, where it stands; :meth:`place` moves it.

        Raises:
            SplatsegError: no such object, or no name.
        """
        new, found = self.workspace.shared.new_id(), self.workspace.shared.content.find(key)
        cleaned = clean_name(f"copy of {found.name}" if name is None else name)
        means = self.workspace.gaussians.means
        low, high = middle_box(means[found.ids.long().to(means.device)])
        x, y, z = ((low + high) / 2).tolist()

        def edit(content: Content) -> Change:
            old = content.find(found.id)
            here = old.placement or Placement((x, y, z), (x, y, z))
            return Change({new: None}, {new: replace(old, id=new, name=cleaned, visible=True, placement=here)})

        entry = self._share(f"duplicate {found.name}", edit).after[new]
        assert entry is not None
        return entry

    @locked
    def place(
        self,
        key: int | str,
        center: Vector | None = None,
        wxyz: Quaternion | None = None,
        scale: float | None = None,
        drag: int | None = None,
    ) -> SceneObject:
        """Put the middle of a copy at ``center`` (world units), turned by ``wxyz`` and ``scale`` times as large as
        what was copied; None leaves it. ``drag`` as in :meth:`Session.set_level`.

        Raises:
            SplatsegError: no such object, one that is no copy, or numbers that mean nothing.
        """
        found = self.workspace.shared.content.find(key)
        if found.placement is None:
            raise SplatsegError(f"place: expected a copy, found '{found.name}' of the splat itself; duplicate it first")
        given = {"center": center, "wxyz": wxyz, "scale": scale}
        fields = {name: value for name, value in given.items() if value is not None}
        placement = replace(found.placement, **fields)  # type: ignore[arg-type]
        label = f"place {found.name}"
        if drag is not None and (self.step.label, self.step.drag) == (label, drag) and self.can_undo:
            self.undo()
        return self._replace_object(found.id, label, drag, placement=placement)

    def _replace_object(self, key: int | str, label: str, drag: int | None = None, **fields: object) -> SceneObject:
        def edit(content: Content) -> Change:
            old = content.find(key)
            return Change({old.id: old}, {old.id: replace(old, **fields)})  # type: ignore[arg-type]

        (entry,) = self._share(label, edit, drag).after.values()
        assert entry is not None
        return entry

    @locked
    def rename(self, key: int | str, name: str) -> SceneObject:
        return self._replace_object(key, "rename", name=clean_name(name))

    @locked
    def recolor(self, key: int | str, color: Color) -> SceneObject:
        return self._replace_object(key, "recolor", color=check_color(color))

    @locked
    def show(self, key: int | str, visible: bool = True) -> SceneObject:
        """Show or hide an object, for everyone. What is hidden is not found by clicks either."""
        return self._replace_object(key, "show" if visible else "hide", visible=visible)

    @locked
    def delete(self, key: int | str) -> None:
        """Forget an object; its Gaussians stay in the scene."""

        def edit(content: Content) -> Change:
            old = content.find(key)
            return Change({old.id: old}, {old.id: None})

        self._share("delete", edit)

    @locked
    def isolate(self, key: int | str | None) -> None:
        """Show this object alone, in this session only, until it is deleted; None shows all again."""
        shared = self.workspace.shared
        with shared.lock:
            found = None if key is None else shared.content.find(key).id
            self._alone = None if found is None else (found, shared.deletions(found))
