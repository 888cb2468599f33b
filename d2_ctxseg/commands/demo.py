"""Draw the predictions of a model on images, a video or a webcam."""

import argparse
import logging
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import tqdm
from PIL import Image
from tqdm.contrib.logging import logging_redirect_tqdm

from detectron2.utils.logger import setup_logger

from ..data import DatasetError
from ..deployment.predictor import SemSegPredictor
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..utils.image_files import find_images, names_a_file, plan_outputs, refuse_to_overwrite
from ..utils.outputs import check_output_file, confirm_overwrite
from ..visualization import class_shares, draw_legend, draw_overlay
from .model_config import config_of
from .video import CODECS, VideoReader, VideoWriter

WINDOW_NAME = "Semantic segmentation (Esc ends)"
ESCAPE_KEY = 27


def load_predictor(args, logger) -> SemSegPredictor:
    """Load the model that the command line names."""
    predictor = SemSegPredictor(config_of(args))
    if (args.unsure_below or args.blank_below) and not predictor.is_calibrated:
        logger.info(
            "No temperature was fitted to these weights, so confidences may be too high or too "
            "low; 'd2-ctxseg calibrate' fits one."
        )
    return predictor


def run_on_images(args, logger) -> None:
    """Predict and draw each image of ``--input``; unreadable ones are named at the end."""
    inputs = find_images(args.input)
    outputs = [None] * len(inputs)
    if args.output:
        outputs = plan_outputs(inputs, args.output)
        confirm_overwrite(outputs, args.overwrite)
    predictor = load_predictor(args, logger)
    unreadable = []
    with logging_redirect_tqdm(_loggers(logger)):  # the progress bar stays one line
        for path, output in zip(tqdm.tqdm(inputs, disable=not args.output), outputs):
            try:
                image, shown = predictor.read(path)
            except DatasetError as error:
                unreadable.append(str(error))
                continue
            start = time.perf_counter()
            labels, unsure = predict(args, predictor, image)
            seconds = time.perf_counter() - start
            said = "" if unsure is None else f", {unsure.mean():.1%} of the pixels unsure"
            classes = len(np.unique(labels[labels >= 0]))
            logger.info(f"{path}: predicted {classes} classes in {seconds:.2f}s{said}")
            overlay = draw_overlay(shown, labels, predictor.metadata, unsure=unsure)
            if output:
                save_image(overlay, output)
            elif show(overlay, wait_ms=0) == ESCAPE_KEY:
                break
    if unreadable:
        raise UserError("these inputs cannot be read as images:\n  " + "\n  ".join(unreadable))


def run_on_video(args, logger) -> None:
    """Predict and draw each frame of ``--video-input`` or of the webcam."""
    output = None
    if args.output:
        output = plan_video_output(args.video_input, args.output)
        confirm_overwrite([output], args.overwrite)
    video = VideoReader(0 if args.webcam else args.video_input)
    predictor = load_predictor(args, logger)
    count, promised = 0, video.num_frames
    with ExitStack() as stack:
        stack.callback(video.close)
        stack.enter_context(logging_redirect_tqdm(_loggers(logger)))
        writer = None
        if output:
            writer = stack.enter_context(VideoWriter(output, video.frames_per_second))
        for frame in tqdm.tqdm(draw_frames(args, video, predictor), total=promised):
            count += 1
            if writer:
                writer.write(frame)
            elif show(frame, wait_ms=1) == ESCAPE_KEY:
                break
    if count == 0:
        raise UserError(f"no frame could be read from {args.video_input or 'the webcam'}")
    if promised and count < promised and output:
        logger.warning(f"{args.video_input} ends early: {count} of {promised} frames could be read")
    logger.info(f"{count} frames" + (f" written to {output}" if output else ""))


def _loggers(logger: logging.Logger) -> list[logging.Logger]:
    """The loggers that may write to the terminal while a progress bar is shown."""
    return [logger, *(logging.getLogger(name) for name in ("d2_ctxseg", "fvcore"))]


def predict(args, predictor, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The label map, -1 where ``--blank-below`` says so, and which pixels are unsure, bool.

    None in their place if nobody asked about them.
    """
    threshold = args.unsure_below or args.blank_below
    if threshold is None:
        return predictor(image), None
    labels, confidence = predictor.with_confidence(image)
    unsure = confidence < threshold
    if args.blank_below:
        labels[unsure] = -1
    return labels, unsure


def draw_frames(args, video, predictor):
    """Yield each frame as an overlay with a legend; all have one size.

    The legend lists all classes if they take at most half the width of the frame, otherwise those
    with the largest shares.
    """
    metadata = predictor.metadata
    for frame in video:
        labels, unsure = predict(args, predictor, frame)
        overlay = draw_overlay(frame, labels, metadata, legend=False, unsure=unsure)
        height, width = overlay.shape[:2]
        shares = class_shares(labels)
        legend = draw_legend(metadata, height, shares, all_classes=True)
        if legend.shape[1] > width // 2:
            legend = draw_legend(metadata, height, shares, one_column=True)
        yield np.hstack([overlay, legend])


def plan_video_output(video_input: str, output: str) -> Path:
    """The video file to write: ``output``, or ``output``/NAME.mp4 where that is a folder."""
    path = Path(output)
    if not names_a_file(output, CODECS):
        path = path / f"{Path(video_input).stem}.mp4"
    refuse_to_overwrite(path, [Path(video_input)])
    check_output_file(path, "--output")
    return path


def save_image(image: np.ndarray, path: Path) -> None:
    """Write a uint8 RGB array; the format follows from the suffix."""
    format_name = Image.registered_extensions()[path.suffix.lower()]
    with atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format=format_name, quality=95)


def show(image: np.ndarray, wait_ms: int) -> int:
    """Show a uint8 RGB array in the window; return the key that was pressed meanwhile.

    ``wait_ms`` = 0 waits for one.
    """
    try:
        cv2.namedWindow(WINDOW_NAME, cv2.WINDOW_NORMAL)
        cv2.imshow(WINDOW_NAME, np.ascontiguousarray(image[:, :, ::-1]))
        return cv2.waitKey(wait_ms)
    except cv2.error as error:  # opencv-python-headless has no windows
        raise UserError("this OpenCV cannot open windows: use --output") from error


def require_display() -> None:
    """Raise UserError if no window can be opened, because OpenCV would abort the program."""
    is_linux = sys.platform.startswith("linux")
    if is_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(
            "there is no display to show the result on: "
            "name a file or folder to write it to with --output"
        )


def run(args, logger) -> None:
    """Run the demo with the arguments ``args``."""
    if args.webcam and args.output:
        raise UserError("--webcam only shows a window: remove --output")
    if not args.output:
        require_display()
    if args.input:
        run_on_images(args, logger)
    else:
        run_on_video(args, logger)


def main(args: argparse.Namespace) -> None:
    setup_logger(name="fvcore")
    setup_logger(name="d2_ctxseg")
    logger = setup_logger()
    logger.info(f"Arguments: {args}")
    run(args, logger)
