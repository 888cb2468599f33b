"""Functions that pickle cannot send to another process."""


class PicklableWrapper:
    """A callable that can be pickled even if it is a lambda or a closure.

    Needed only where processes are spawned, and so get their arguments pickled; forked ones do not.
    There, cloudpickle must be installed.

    Args:
        obj: a callable. Its attributes are found on the wrapper, too.
    """

    def __init__(self, obj):
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self):
        import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args, **kwargs):
        return self._obj(*args, **kwargs)

    def __getattr__(self, name):
        if name == "_obj":  # not set yet: looking it up on itself would never end
            raise AttributeError(name)
        return getattr(self._obj, name)
