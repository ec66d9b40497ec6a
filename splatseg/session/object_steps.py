"""Objects that a session keeps, as steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from splatseg.core.errors import SplatsegError
from splatseg.session import label_edit
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

    def _replace_object(self, key: int | str, label: str, **fields: object) -> SceneObject:
        def edit(content: Content) -> Change:
            old = content.find(key)
            return Change({old.id: old}, {old.id: replace(old, **fields)})  # type: ignore[arg-type]

        (entry,) = self._share(label, edit).after.values()
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
