"""Read and write videos with OpenCV; frames are uint8 RGB arrays (H, W, 3)."""

import os
import tempfile
from pathlib import Path

# H.264 is tried first and may be missing: FFmpeg need not say so on the terminal.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from ..utils.errors import MissingFileError, UserError  # noqa: E402

# H.264 plays everywhere, but OpenCV's wheels for Linux lack an encoder; MPEG-4 is in all of them.
CODECS = {
    ".mp4": ("avc1", "mp4v"),
    ".mov": ("avc1", "mp4v"),
    ".mkv": ("avc1", "mp4v"),
    ".avi": ("MJPG",),
}


class VideoReader:
    """The frames of a video file or, with ``source`` a number, of a camera."""

    def __init__(self, source: str | int):
        """Open the source; UserError if it cannot be opened."""
        if isinstance(source, str) and not Path(source).is_file():
            raise MissingFileError(f"--video-input {source}: there is no such file")
        self.capture = cv2.VideoCapture(source)
        if not self.capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else f"{source} as a video"
            raise UserError(f"cannot open {what}")
        self.source = source

    @property
    def frames_per_second(self) -> float:
        """Frames per second; UserError if the video does not state it."""
        value = self.capture.get(cv2.CAP_PROP_FPS)
        if not value > 0:
            raise UserError(f"{self.source} has no frame rate")
        return value

    @property
    def num_frames(self) -> int | None:
        """The number of frames in the file's header; None if it is missing."""
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def __iter__(self):
        while True:
            success, frame = self.capture.read()
            if not success:
                return
            yield frame[:, :, ::-1]

    def close(self) -> None:
        self.capture.release()


class VideoWriter:
    """A context manager that writes a video, which appears under its name when it is complete."""

    def __init__(self, path: Path, frames_per_second: float):
        """The suffix of ``path`` is one of ``CODECS``. The folder is made if needed."""
        self.path = path
        self.frames_per_second = frames_per_second
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
        self.part = Path(self.folder.name, path.name)
        self.writer = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame; all have the size of the first.

        Raises UserError if no codec for this kind of file is installed.
        """
        # The codecs need even sizes.
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.writer is None:
            self.writer = self._open(frame.shape[1], frame.shape[0])
        self.writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        level = cv2.utils.logging.setLogLevel(0)
        try:
            for codec in CODECS[self.path.suffix.lower()]:
                fourcc = cv2.VideoWriter_fourcc(*codec)
                size = (width, height)
                writer = cv2.VideoWriter(str(self.part), fourcc, self.frames_per_second, size)
                if writer.isOpened():
                    return writer
        finally:
            cv2.utils.logging.setLogLevel(level)
        raise UserError(
            f"OpenCV cannot write {self.path.suffix} files of {width}x{height} pixels here; "
            f"try another suffix: {', '.join(CODECS)}"
        )

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if self.writer is not None:
            self.writer.release()
            if error_type is None:
                os.replace(self.part, self.path)
        self.folder.cleanup()
