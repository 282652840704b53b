"""Small test videos, written with PyAV."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from PIL import Image

Frames = npt.NDArray[np.uint8]


def moving_frames(count: int = 24, height: int = 48, width: int = 64, seed: int = 0) -> Frames:
    """Distinct frames of moving colour blocks, uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([np.roll(image, 2 * index, axis=1) for index in range(count)])


def write_video(
    path: Path,
    frames: Frames,
    codec: str = "libx264",
    *,
    rate: int = 10,
    pix_fmt: str = "yuv420p",
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    start: int = 0,
    sound: bool = False,
) -> Path:
    """Write a video whose first frame is shown at frame `start`, with silence from 0 if `sound`."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sound:
            silence: Any = container.add_stream("aac", rate=16000)
            container.mux(silence.encode(_silence()))
        for index, frame in enumerate(frames, start=start):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts = index if start else None
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def _silence() -> Any:
    samples = np.zeros((1, 8000), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 16000
    return frame


def write_audio(path: Path, cover: bool = False) -> Path:
    """Write half a second of silence, optionally with a cover picture (a video stream)."""
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        picture: Any = container.add_stream("mjpeg") if cover else None
        if picture:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = Disposition.attached_pic
        container.mux(stream.encode(_silence()))
        container.mux(stream.encode())
        if picture:
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32)).save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            packet.time_base = picture.time_base
            container.mux(packet)
    return path


def write_jpegs(folder: Path, frames: Frames, names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        name = names[index] if names else f"{index:05d}.jpg"
        Image.fromarray(frame).save(folder / name, quality=95)
    return folder


def decode_in_order(path: Path) -> list[Frames]:
    """Decode all frames in order with PyAV."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(offset in the file, size in bytes) of each frame's packet, in presentation order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packets.sort(key=lambda packet: packet.pts)
    content = path.read_bytes()
    # A packet's `pos` may point to a header before its data.
    return [(content.find(bytes(packet), packet.pos), packet.size) for packet in packets]


def damage_frame(path: Path, frame_idx: int) -> Path:
    """Overwrite the packet of a frame with zeros."""
    offset, size = packet_places(path)[frame_idx]
    assert offset >= 0
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    return path


def cut_at_frame(path: Path, frame_idx: int) -> Path:
    """Truncate the file in the middle of a frame's packet."""
    offset, size = packet_places(path)[frame_idx]
    assert offset >= 0
    path.write_bytes(path.read_bytes()[: offset + size // 2])
    return path
