"""Makes clicks.json beside it: how sharp librosa's phase vocoder leaves a train of clicks.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python clicks.py

`src/views/tests.rs` makes the same clicks, measures our own stretching the same way, and must do better at every strength.
"""

import json
import pathlib

import librosa
import numpy as np

RATE_HZ = 44_100
PERIOD = 4_410
REACH = 22


def clicks(samples):
    """Ten clicks a second, each a decaying burst of one millisecond."""
    place = np.arange(samples) % PERIOD
    sign = np.where(place % 2 == 0, 1.0, -1.0)
    return np.where(place < PERIOD // 10, np.exp(-place / 11.0) * sign, 0.0).astype(np.float32)


def sharpness(samples, period):
    """Part of the energy within half a millisecond of each click's loudest sample."""
    near, total = 0.0, 0.0
    samples = samples[period // 2 :].astype(np.float64)
    for click in np.split(samples[: len(samples) // period * period] ** 2, len(samples) // period):
        peak = int(np.argmax(click))
        near += click[max(0, peak - REACH) : peak + REACH].sum()
        total += click.sum()
    return near / total


def main():
    train = clicks(2 * RATE_HZ)
    stretched = {
        rate: sharpness(librosa.effects.time_stretch(train, rate=rate), round(PERIOD / rate))
        for rate in (0.8, 0.9, 1.1, 1.25)
    }
    shifted = {
        semitones: sharpness(librosa.effects.pitch_shift(train, sr=RATE_HZ, n_steps=semitones), PERIOD)
        for semitones in (-4.0, 2.0, 4.0)
    }
    golden = {
        "unchanged": sharpness(train, PERIOD),
        "stretched": [[rate, round(value, 4)] for rate, value in stretched.items()],
        "shifted": [[semitones, round(value, 4)] for semitones, value in shifted.items()],
    }
    path = pathlib.Path(__file__).with_name("clicks.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
