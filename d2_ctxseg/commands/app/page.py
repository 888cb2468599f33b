"""The page, and the server behind it."""

import argparse
import logging
import os
from pathlib import Path

# Read when Gradio is imported: no analytics are sent, and no history of images is kept.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise SystemExit("error: the page needs Gradio: pip install 'gradio>=6,<7'") from error

from detectron2.utils.logger import setup_logger

from ...deployment.predictor import SemSegPredictor
from ...utils.errors import UsageError, UserError
from ..model_config import config_of
from .session import (
    Session,
    draw_thumbnails,
    find_samples,
    load_runs,
    load_trained_models,
)

HERE = Path(__file__).parent
ADDRESS = "127.0.0.1"
OPACITY = 0.6
NO_MODEL = "none"
SYSTEM_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
SET_OPACITY = "(value) => document.documentElement.style.setProperty('--class-opacity', value)"
# What happens to pixels whose confidence is below the threshold; app.js knows the first letters.
UNSURE_MODES = ["Shown like the others", "Hatched", "Without a class"]
THRESHOLD = 0.7
SHOW_UNSURE = "(mode, threshold) => window.showUnsure(mode, threshold)"
HOUR = 3600

logger = logging.getLogger("d2_ctxseg.app")


def make_session(args) -> Session:
    """The models and samples that the command line names; raises UserError if these are wrong."""
    if args.weights and not args.config_file:
        raise UsageError("--weights belongs to --config-file: --run and --model have their own.")
    if args.run:
        models = load_runs(args.run, args.opts)
    elif args.model:
        models = load_trained_models(args.model, args.opts)
    else:
        models = {Path(args.config_file).stem: SemSegPredictor(config_of(args))}
    samples = find_samples(args.samples, next(iter(models.values())))
    return Session(models, draw_thumbnails(samples, args.max_megapixels), args.max_megapixels)


def build_page(session: Session) -> gr.Blocks:
    """Build the page, with the inputs on the left and the result on the right."""
    names = list(session.models)
    with gr.Blocks(
        title="Semantic segmentation",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(HOUR, HOUR),
    ) as page:
        image = gr.State(None)  # the path of the image shown
        gr.Markdown(
            "# Semantic segmentation\n"
            "Predictions of models for an image. Point at the image to read the class of a pixel "
            "and the confidence of the model in it."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                upload = gr.File(label="Your image", height=160, elem_id="upload")
                samples = gr.Gallery(
                    list(session.samples.values()),
                    label="Samples",
                    columns=3,
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=bool(session.samples),
                    elem_id="samples",
                )
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                beside = gr.Dropdown(
                    [NO_MODEL, *names],
                    value=names[1] if len(names) > 1 else NO_MODEL,
                    label="Compare with",
                    visible=len(names) > 1,
                    elem_id="beside",
                )
                opacity = gr.Slider(0, 1, OPACITY, step=0.01, label="Opacity", elem_id="opacity")
                unsure = gr.Radio(
                    UNSURE_MODES, value=UNSURE_MODES[0], label="Unsure pixels", elem_id="unsure"
                )
                threshold = gr.Slider(
                    0, 1, THRESHOLD, step=0.01, label="Unsure below", elem_id="threshold"
                )
            with gr.Column(scale=4, min_width=320):
                result = gr.HTML(session.segment(None, []), elem_id="result")
                with gr.Accordion("Inside the classifier", open=False, elem_id="inside"):
                    gr.Markdown(
                        "How each model comes to its prediction: what its classifier computes, and "
                        "how certain the prediction is."
                    )
                    draw_views = gr.Button("Draw", elem_id="draw-views")
                    views = gr.HTML(elem_id="views")

        chosen = [model, beside]
        _connect(session, image, upload, samples, chosen, result, views)
        draw_views.click(
            lambda path, *models: session.views(path, _distinct(models)),
            [image, *chosen],
            views,
            concurrency_id="model",
            api_visibility="private",
        )
        opacity.change(None, opacity, None, js=SET_OPACITY, api_visibility="private")
        page.load(None, opacity, None, js=SET_OPACITY, api_visibility="private")
        for choice in (unsure, threshold):
            choice.change(None, [unsure, threshold], None, js=SHOW_UNSURE, api_visibility="private")
    return page


def _connect(session: Session, image, upload, samples, chosen, result, views) -> None:
    """Show the result for each choice of an image or a model, and remove the previous views."""

    def show(path, *models):
        return path, session.segment(path, _distinct(models)), ""

    def show_upload(path, *models):
        # The field is emptied for the next upload.
        return *show(path, *models), None

    def show_sample(event: gr.SelectData, *models):
        return show(str(list(session.samples)[event.index]), *models)

    shown = [image, result, views]
    # One prediction at a time; of clicks that come meanwhile the last one counts.
    options = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "trigger_mode": "always_last",
        "show_progress_on": result,
        "api_visibility": "private",
    }
    upload.upload(show_upload, [upload, *chosen], [*shown, upload], **options)
    samples.select(show_sample, chosen, shown, **options)
    for choice in chosen:
        choice.input(show, [image, *chosen], shown, **options)


def _distinct(models) -> list[str]:
    """The names of the chosen models without duplicates."""
    return [name for name in dict.fromkeys(models) if name != NO_MODEL]


def serve(page: gr.Blocks, port: int, max_megapixels: float, wait: bool = True) -> str:
    """Serve the page to this machine, until Ctrl-C if ``wait``; returns its address.

    Raises UserError if the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            ssr_mode=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            # Room for pixels that are not compressed, four bytes each.
            max_file_size=f"{int(4 * max_megapixels) + 1}mb",
            theme=gr.themes.Default(**SYSTEM_FONTS),
            css_paths=HERE / "app.css",
            head=f"<script>{(HERE / 'app.js').read_text(encoding='utf-8')}</script>",
        )
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port {port} cannot be used: another program has it, or there is no such port. "
            "Choose another --port."
        ) from error
    logger.info(f"The page is at {address} (Ctrl-C ends it)")
    if wait:
        page.block_thread()
    return address


def main(args: argparse.Namespace) -> None:
    setup_logger(name="fvcore")
    setup_logger(name="d2_ctxseg")
    session = make_session(args)
    serve(build_page(session), args.port, args.max_megapixels)
