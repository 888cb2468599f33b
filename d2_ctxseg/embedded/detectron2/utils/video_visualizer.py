"""Draws label maps onto the frames of a video."""

from detectron2.utils.visualizer import ColorMode, Visualizer

from .._coverage import module_getattr


class VideoVisualizer:
    """Draws frame after frame in the same style."""

    def __init__(self, metadata, instance_mode=ColorMode.IMAGE):
        """``metadata``: the dataset's ``Metadata`` with ``stuff_classes`` and ``stuff_colors``."""
        if instance_mode not in (ColorMode.IMAGE, ColorMode.IMAGE_BW):
            raise AssertionError(f"instance_mode {instance_mode} does not exist for videos")
        self.metadata = metadata
        self._instance_mode = instance_mode

    def draw_sem_seg(self, frame, sem_seg, area_threshold=None):
        """Draw a label map onto a frame.

        Args:
            frame: (H, W, 3) RGB in [0, 255].
            sem_seg: integer tensor or array (H, W); labels that are no class are left undrawn.
            area_threshold: regions with fewer pixels are left out.

        Returns:
            The ``VisImage``.
        """
        visualizer = Visualizer(frame, self.metadata, instance_mode=self._instance_mode)
        return visualizer.draw_sem_seg(sem_seg, area_threshold=area_threshold)


__getattr__ = module_getattr(__name__)
