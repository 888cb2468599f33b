"""Detectron2's projects: only the parts of DeepLab that are not its model."""
