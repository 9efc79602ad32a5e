"""Contact sound: modes of thin-walled bodies, struck by impulses and scraped, heard by two microphones.

A body rings as a free-free bar of its material; the material's usual wall thickness and size set the pitch, never the
mass that the physics uses. Material constants after KleinPAT (Wang and James, 2019); rubber's are our own guess.
"""

from dataclasses import dataclass

import numpy as np

from multisense.sim.impacts import Impacts
from multisense.sim.scene import OBJECT_COUNT, ObjectParameters, Scene
from multisense.sim.world import PHYSICS_HZ, TIP, WALL, Trace

AUDIO_HZ = 16_000
SPEED_OF_SOUND_M_S = 343.0
MICROPHONES_M = np.array([[0.0, -0.03, 0.60], [0.0, 0.03, 0.60]])
"""A stereo pair above the middle of the table: on either side of it, the pair tells where an object was struck or hit
a wall, and position is for the eye."""
BETA_L = np.array([4.730040744862704, 7.853204624095838, 10.99560783800167,
                   14.13716549125746, 17.27875965739948, 20.42035224562606])  # fmt: skip
"""Roots of cos(x) cosh(x) = 1: bending modes of a bar with free ends (Blevins, 1979, table 8-1)."""
STRIKE_LEVEL = 0.50
"""Peak pressure per m/s of closing speed at 1 m, in full scale."""
SCRAPE_LEVEL = 0.0005
"""A table nearly free of friction is nearly silent."""
NOISE_RMS = 0.0008
SLOWEST_M_S = 0.02
GAIN = {"tip": 1.0, "object": 0.5, "wall": 0.03}
"""How loud a strike is by what strikes: the springy walls are soft."""


@dataclass(frozen=True)
class Material:
    density_kg_m3: float
    young_pa: float
    alpha_1_s: float
    """Rayleigh damping, mass part."""
    beta_s: float
    """Rayleigh damping, stiffness part."""
    wall_m: float
    """Thickness of the wall that such an object usually has."""
    contact_s: float
    """Duration of a strike at 0.5 m/s by a hard fingertip."""


MATERIAL_TABLE = {
    "steel": Material(7850, 2.0e11, 5, 3e-8, 0.0010, 0.0003),
    "ceramic": Material(2700, 7.2e10, 6, 1e-7, 0.0035, 0.0004),
    "wood": Material(750, 1.1e10, 60, 2e-6, 0.0040, 0.0010),
    "plastic": Material(1070, 1.4e9, 30, 1e-6, 0.0025, 0.0012),
    "rubber": Material(1100, 1.0e7, 300, 2e-5, 0.0060, 0.0050),
}


def mode_frequencies(material: Material, length_m: float) -> np.ndarray:
    """(6,) Hz: f_n = (beta_n L)² / (2 pi L²) sqrt(E h² / (12 rho)), bending of a bar with free ends."""
    stiffness = np.sqrt(material.young_pa * material.wall_m**2 / (12 * material.density_kg_m3))
    return BETA_L**2 / (2 * np.pi * length_m**2) * stiffness


def mode_decays(material: Material, frequency_hz: np.ndarray) -> np.ndarray:
    """Rayleigh damping, 1/s: d_n = (alpha + beta w_n²) / 2. The time to -60 dB is 6.91 / d_n."""
    return (material.alpha_1_s + material.beta_s * (2 * np.pi * frequency_hz) ** 2) / 2


def impulse_response(item: ObjectParameters, amplitudes: np.ndarray, seconds: float) -> np.ndarray:
    """(n,) modal response at AUDIO_HZ to a unit impulse; modes above .45 of the sample rate are left out.

    Scaled so that a strike of usual duration peaks at 1: loudness then tells the speed of a strike, not the material.
    """
    material = MATERIAL_TABLE[item.material]
    frequency = mode_frequencies(material, 2.5 * item.radius_m)
    frequency = frequency[frequency < 0.45 * AUDIO_HZ]
    decay = mode_decays(material, frequency)
    omega = np.sqrt((2 * np.pi * frequency) ** 2 - decay**2)
    times = np.arange(int(seconds * AUDIO_HZ)) / AUDIO_HZ
    weights = amplitudes[: len(frequency)] / np.sqrt(np.arange(1, len(frequency) + 1))
    response = weights @ (np.exp(-decay[:, None] * times) * np.sin(omega[:, None] * times))
    strike = np.convolve(response[:1600], half_sine(0.0, material.contact_s)[1])
    return response / np.abs(strike).max()


def half_sine(start_s: float, width_s: float) -> tuple[int, np.ndarray]:
    """First sample and samples of a half-sine pulse of unit area that starts between samples."""
    first = int(np.ceil(start_s * AUDIO_HZ))
    # Four times finer than the samples, then averaged: pulses narrower than a sample keep their area and place.
    fine = (np.arange(4 * (int(width_s * AUDIO_HZ) + 3)) + 0.5) / 4 - 1
    phase = (first + fine) / AUDIO_HZ - start_s
    pulse = np.where((phase > 0) & (phase < width_s), np.sin(np.pi * phase / width_s), 0).reshape(-1, 4).sum(axis=1)
    return first - 1, pulse / pulse.sum()


def synthesise(trace: Trace, impacts: Impacts, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) float32 in [-1, 1]: each object's excitation at each microphone, through its modes, plus the room."""
    seconds = len(trace.joints) / PHYSICS_HZ
    count = round(seconds * AUDIO_HZ)
    length = 1 << int(np.ceil(np.log2(2 * count)))
    heard = _room_noise(count, rng)
    for number, item in enumerate(scene.objects):
        amplitudes = rng.uniform(0.5, 1.0, len(BETA_L)) * rng.choice((-1.0, 1.0), len(BETA_L))
        excitation = np.zeros((count, 2))
        _add_strikes(excitation, impacts, number, scene)
        response = impulse_response(item, amplitudes, min(seconds, 1.5))
        _add_scraping(excitation, trace, number, rng, float(np.linalg.norm(response)))
        if excitation.any():
            spectrum = np.fft.rfft(excitation, length, axis=0) * np.fft.rfft(response, length)[:, None]
            heard += np.fft.irfft(spectrum, length, axis=0)[:count]
    return np.clip(heard, -1, 1).astype(np.float32)


def _room_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) hiss plus rumble below 150 Hz, NOISE_RMS each, independent at the two microphones."""
    hiss, rumble = rng.normal(0, NOISE_RMS, (2, count, 2))
    frequency = np.fft.rfftfreq(count, 1 / AUDIO_HZ)
    shape = 1 / (1 + (frequency / 150) ** 2)
    spectrum = np.fft.rfft(rumble, axis=0) * (shape / np.sqrt(np.mean(shape**2)))[:, None]
    return hiss + np.fft.irfft(spectrum, count, axis=0)


def _add_strikes(excitation: np.ndarray, impacts: Impacts, number: int, scene: Scene) -> None:
    """Add a pulse at each microphone for each impact of object `number`, delayed and weakened by its way there."""
    hits = np.flatnonzero((impacts.body == number).any(axis=1) & (impacts.speed > SLOWEST_M_S))
    for hit in hits:
        pair, speed = impacts.body[hit], float(impacts.speed[hit])
        kind = "tip" if pair[1] == TIP else "wall" if pair[1] == WALL else "object"
        # The softer body sets how long they touch; Hertz: faster is shorter, by the fifth root.
        touched = [MATERIAL_TABLE[scene.objects[b].material].contact_s for b in pair if b < OBJECT_COUNT]
        width = max(touched) * (0.5 / speed) ** 0.2
        ways = np.linalg.norm(MICROPHONES_M - impacts.point[hit], axis=1)
        for microphone, way in enumerate(ways):
            first, pulse = half_sine(float(impacts.time_s[hit]) + way / SPEED_OF_SOUND_M_S, width)
            start, stop = max(first, 0), min(first + len(pulse), len(excitation))
            if start < stop:
                level = STRIKE_LEVEL * GAIN[kind] * speed / way
                excitation[start:stop, microphone] += level * pulse[start - first : stop - first]


def _add_scraping(excitation: np.ndarray, trace: Trace, number: int, rng: np.random.Generator, gain: float) -> None:
    """Noise as loud as the root of the speed over the table; `gain` is what the modes add to white noise."""
    speed = np.linalg.norm(trace.velocity[:, number, :2], axis=1)
    loudness = np.sqrt(np.where(speed > 0.01, speed, 0) / 0.2)
    if not loudness.any():
        return
    noise = rng.normal(0, SCRAPE_LEVEL / gain, len(excitation))
    times = np.arange(len(excitation)) / AUDIO_HZ
    for microphone, place in enumerate(MICROPHONES_M):
        way = np.linalg.norm(trace.position[:, number] - place, axis=1)
        late = times - np.interp(times, trace.times_s, way) / SPEED_OF_SOUND_M_S
        weakened = np.interp(late, trace.times_s, loudness / way)
        excitation[:, microphone] += weakened * np.interp(late, times, noise)
