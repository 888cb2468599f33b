"""Meta-architectures: whole models, from the data loader's dicts to losses or predictions."""

from .build import META_ARCH_REGISTRY, build_model
from .semantic_seg import SEM_SEG_HEADS_REGISTRY, SemanticSegmentor, build_sem_seg_head

__all__ = [
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "SemanticSegmentor",
    "build_model",
    "build_sem_seg_head",
]
