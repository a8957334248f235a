"""The errors of the test host."""


class HostError(RuntimeError):
    """The environment, the server or a workflow is not as it must be; the text says what to do."""
