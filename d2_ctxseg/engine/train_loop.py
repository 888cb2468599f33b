"""A training loop that can be stopped at any time and resumed exactly."""

import logging
import os
from collections import OrderedDict
from contextlib import suppress

from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from ..checkpoint import Checkpointer
from ..utils.errors import UserError, explain
from ..utils.files import WriteError, write_errors
from .interrupts import Interrupted, deferred_interrupts
from .processes import on_main_process
from .resume_check import refuse_other_state
from .run_folder import set_seed
from .run_state import RunState

logger = logging.getLogger(__name__)


class ResumableTrainer(DefaultTrainer):
    """Detectron2's training loop with exact resuming.

    A hook may write a checkpoint before other hooks have run for the same step. Resuming first runs
    the hooks that follow. A subclass sets both attributes.

    Attributes:
        checkpointer: contains the trainer as "trainer" and ``run_state`` as "run".
        run_state: the additional state of a checkpoint.
    """

    checkpointer: Checkpointer
    run_state: RunState

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the training in OUTPUT_DIR, or start from the weights in MODEL.WEIGHTS.

        A resumed poly schedule ends at this run's MAX_ITER.

        Args:
            resume: whether to continue if there is a checkpoint.

        Raises:
            UserError: there are checkpoints, but none that training can resume from.
        """
        path = on_main_process(self.checkpointer.get_checkpoint_file) if resume else ""
        if not path:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            return
        refuse_other_state(path, self.checkpointer.model, self.optimizer)
        self.checkpointer.load(path)
        self.start_iter = self.iter + 1
        self._resume_data()
        # The checkpoint contains the length of its schedule, beyond which the rate is undefined.
        before = getattr(self.scheduler, "max_iters", self.max_iter)
        if before != self.max_iter:
            logger.warning(
                "The checkpoint's schedule had %d iterations; it now ends at SOLVER.MAX_ITER %d.",
                before,
                self.max_iter,
            )
            self.scheduler.max_iters = self.max_iter

    def _resume_data(self) -> None:
        """Continue with the run's order of images and its random numbers."""
        state, cfg = self.run_state, self.cfg
        if state.loaded_seed not in (None, cfg.SEED):
            logger.warning("SEED is %d, as the run was started with", state.loaded_seed)
            state.seed = state.loaded_seed
            set_seed(cfg, state.seed)
            self.data_loader = self.build_seeded_loader()
        state.warn_if_inexact()
        state.restore_loaders(self.start_iter * cfg.SOLVER.IMS_PER_BATCH)

    def build_seeded_loader(self):
        """The loader of training batches, for the config's SEED."""
        raise NotImplementedError

    def save_checkpoint(
        self, name: str, hook: HookBase | None = None, *, tag: bool = True, **content
    ) -> None:
        """Write ``{name}.pth`` into OUTPUT_DIR. All processes call this together.

        Args:
            name: name of the file.
            hook: the hook that saves after a step; resuming calls the hooks that follow it.
            tag: whether resuming starts from this checkpoint.
            content: additional entries of the file.

        Raises:
            WriteError: the file cannot be written.
        """
        if hook is not None:
            self.run_state.last_hook = type(hook).__qualname__
        iteration = self._iterations_done() - 1
        self.run_state.gather(self.storage, iteration)
        save = self.checkpointer.save if tag else self.checkpointer.write
        # With it the file can be used without its folder, and without the dataset's YAML.
        save(name, iteration=iteration, config=self.cfg.dump(), **content)

    def _iterations_done(self) -> int:
        # After training, Detectron2's hooks expect ``iter`` to be ``max_iter``.
        return min(self.iter + 1, self.max_iter)

    def state_dict(self) -> dict:
        """As in DefaultTrainer; "iteration" is the last finished one."""
        return {**super().state_dict(), "iteration": self._iterations_done() - 1}

    def train(self) -> OrderedDict | None:
        """Train up to SOLVER.MAX_ITER; returns the last evaluation's results on the main process.

        Raises:
            UserError: the loss became infinite or NaN; the message names the iteration.
            WriteError: OUTPUT_DIR is not writable any more.
            KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint was written.
        """
        try:
            with deferred_interrupts():
                self._train()
        except FloatingPointError as error:
            raise UserError(
                f"Training stopped. {error}\nCommon causes: a learning rate (SOLVER.BASE_LR) that "
                "is too high, no warm-up, half precision. SOLVER.CLIP_GRADIENTS may help; the "
                "checkpoints written before are in OUTPUT_DIR."
            ) from error
        except WriteError as error:
            raise WriteError(
                f"Training stopped after iteration {self._iterations_done() - 1}. {error} "
                "--resume continues from the last checkpoint."
            ) from error
        results = getattr(self, "_last_eval_results", None)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, results)
        return results

    def _train(self) -> None:
        """TrainerBase's loop, which first runs the hooks that an interrupted step has left."""
        with write_errors(self.cfg.OUTPUT_DIR):
            os.makedirs(self.cfg.OUTPUT_DIR, exist_ok=True)
        logger.info("Starting training from iteration %d", self.start_iter)
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                self._finish_step()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = self.max_iter
                self.after_train()
            except BaseException as error:
                self._stop(error)
                raise

    def _finish_step(self) -> None:
        """Run the hooks that had not run when the checkpoint was written."""
        if self.start_iter == 0:
            return
        self.iter = self.storage.iter = self.start_iter - 1
        self.run_state.restore_process(self.storage)
        names = [type(hook).__qualname__ for hook in self._hooks]
        if self.run_state.last_hook in names:
            self._call_after_step(self._hooks[names.index(self.run_state.last_hook) + 1 :])
        self.iter = self.start_iter

    def after_step(self) -> None:
        """Call the hooks' ``after_step``.

        Raises:
            WriteError: OUTPUT_DIR does not exist any more.
        """
        if comm.is_main_process():
            with write_errors(self.cfg.OUTPUT_DIR):
                os.stat(self.cfg.OUTPUT_DIR)  # otherwise an evaluation would create a new one
        self.run_state.last_hook = ""
        self._call_after_step(self._hooks)

    def _call_after_step(self, hooks: list[HookBase]) -> None:
        for hook in hooks:
            hook.after_step()
            self.run_state.last_hook = type(hook).__qualname__

    def _stop(self, error: BaseException) -> None:
        """Save after an interruption, and let the hooks close their files."""
        try:
            if isinstance(error, Interrupted):
                self._save_interrupted()
        finally:
            if explain(error) is None and not isinstance(error, KeyboardInterrupt):
                logger.exception("Exception during training:")
            # Hooks evaluate only where the last iteration was reached.
            stopped_at, self.iter = self.iter, min(self.iter, self.max_iter - 2)
            for hook in self._hooks:
                with suppress(Exception):  # often the consequence of the first error
                    hook.after_train()
            self.iter = stopped_at

    def _save_interrupted(self) -> None:
        if self.iter >= self.max_iter:
            logger.warning(
                "Interrupted in the evaluation after the training, which is complete. --resume "
                "evaluates again."
            )
            return
        name = f"model_{self.iter:07d}"
        try:
            self.save_checkpoint(name)
        finally:
            comm.synchronize()  # the end of one process ends the others
        logger.warning(
            "Interrupted after iteration %d; %s is saved. Continue with --resume.",
            self.iter,
            os.path.join(self.cfg.OUTPUT_DIR, f"{name}.pth"),
        )
