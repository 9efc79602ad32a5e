"""Frames by ray casting: a pinhole camera, Lambert shading, one light, hard shadows; no OpenGL."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names come without type stubs.)

import mujoco
import numpy as np

from multisense.sim.scene import OBJECT_COUNT, Scene

CAMERA_M = np.array([0.46, 0.0, 0.52])
LOOK_AT_M = np.array([-0.015, 0.0, 0.0])
FOV_Y_DEG = 40.0
LIGHT_M = np.array([0.35, 0.45, 1.1])
AMBIENT, DIFFUSE, SHADOW = 0.40, 0.70, 0.35
BACKGROUND = 0.06
STILL, MOVING = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.array([0, 1, 0, 0, 0, 0], np.uint8)
"""Geom groups, as `mj_multiRay` takes them."""
CHECKER_M, BAND_M = 0.06, 0.014


def pinhole_rays(size: int) -> np.ndarray:
    """(size², 3) unit directions in the world, row by row from the top left, through the pixels' centres.

    The camera looks from CAMERA_M to LOOK_AT_M with the world's z upright: right = forward x z.
    """
    forward = LOOK_AT_M - CAMERA_M
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    focal = 0.5 * size / np.tan(np.radians(FOV_Y_DEG) / 2)
    offset = (np.arange(size) + 0.5 - size / 2) / focal
    rays = forward + offset[None, :, None] * right + offset[:, None, None] * down
    return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)


Hits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Per ray the geom it meets (-1 where none), the distance (inf where none) and the surface's normal."""


class RayRenderer:
    """Frames of one scene's `data`, (size, size, 3) uint8.

    What stands still is looked for once, before the first frame; then only rays to moving geoms are cast.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, scene: Scene, size: int) -> None:
        self.model, self.size = model, size
        self._rays = pinhole_rays(size)
        # One more row than geoms: a ray that hits nothing has geom -1.
        self._colour = np.vstack([model.geom_rgba[:, :3], np.full(3, BACKGROUND)])
        self._table = model.geom("table").id
        geoms = [model.geom(f"object{i}").id for i in range(OBJECT_COUNT)]
        self._banded = [g for g, item in zip(geoms, scene.objects, strict=True) if item.texture == "banded"]
        self._still = self._cast(data, CAMERA_M, self._rays, STILL)
        hit, distance, _ = self._still
        surface = np.flatnonzero(hit >= 0)
        self._still_shadow = np.zeros(len(hit), bool)
        self._still_shadow[surface] = self._blocked(data, self._points(distance, surface), STILL)

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The frame of what `data` holds; geoms where its last step found them."""
        hit, distance, normal = self._see(data)
        surface = np.flatnonzero(hit >= 0)
        points = self._points(distance, surface)
        colour = self._colour[hit]
        self._paint(data, hit, surface, points, colour)
        shadow = self._still_shadow[surface]
        moved = np.flatnonzero(hit[surface] != self._still[0][surface])
        shadow[moved] = self._blocked(data, points[moved], STILL)
        shadow |= self._blocked(data, points, MOVING)
        light = LIGHT_M - points
        cosine = np.einsum("pi,pi->p", normal[surface], light) / np.linalg.norm(light, axis=1)
        lambert = np.clip(cosine, 0, 1) * np.where(shadow, SHADOW, 1.0)
        colour[surface] *= (AMBIENT + DIFFUSE * lambert)[:, None]
        return (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(self.size, self.size, 3)

    def geom_ids(self, data: mujoco.MjData) -> np.ndarray:
        """(size, size) the geom each pixel sees, -1 where none: exact visibility."""
        return self._see(data)[0].reshape(self.size, self.size)

    def _see(self, data: mujoco.MjData) -> Hits:
        moving = self._cast(data, CAMERA_M, self._rays, MOVING)
        nearer = moving[1] < self._still[1]
        hit, distance = (np.where(nearer, m, s) for m, s in zip(moving[:2], self._still[:2], strict=True))
        return hit, distance, np.where(nearer[:, None], moving[2], self._still[2])

    def _points(self, distance: np.ndarray, surface: np.ndarray) -> np.ndarray:
        return CAMERA_M + self._rays[surface] * distance[surface, None]

    def _cast(self, data: mujoco.MjData, origin: np.ndarray, rays: np.ndarray, group: np.ndarray) -> Hits:
        count = len(rays)
        hit, distance, normal = np.full(count, -1, np.int32), np.empty(count), np.empty(3 * count)
        if count:
            mujoco.mj_multiRay(
                self.model, data, origin, rays.ravel(), group, True, -1, hit, distance, normal, count, 10.0
            )  # fmt: skip
        return hit, np.where(hit >= 0, distance, np.inf), normal.reshape(-1, 3)

    def _blocked(self, data: mujoco.MjData, points: np.ndarray, group: np.ndarray) -> np.ndarray:
        """(pixels,) bool: a geom of the group stands between the light and the point."""
        away = points - LIGHT_M
        far = np.linalg.norm(away, axis=1)
        return self._cast(data, LIGHT_M, away / far[:, None], group)[1] < far - 1e-3

    def _paint(
        self, data: mujoco.MjData, hit: np.ndarray, surface: np.ndarray, points: np.ndarray, colour: np.ndarray
    ) -> None:
        """Checker on the table, bands on the objects that have them."""
        seen = hit[surface]
        on_table = np.flatnonzero(seen == self._table)
        cells = np.floor(points[on_table, :2] / CHECKER_M).astype(int).sum(axis=1)
        colour[surface[on_table[cells % 2 == 0]]] *= 0.80
        for geom in self._banded:
            on_object = np.flatnonzero(seen == geom)
            along = (points[on_object] - data.geom_xpos[geom]) @ data.geom_xmat[geom].reshape(3, 3)[:, 0]
            colour[surface[on_object[np.floor(along / BAND_M).astype(int) % 2 == 0]]] *= 0.60
