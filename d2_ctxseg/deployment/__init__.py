"""From a trained model to its use elsewhere: prediction, export, new classes, cost."""
