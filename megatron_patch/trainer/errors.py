"""Errors that a user can mend: shown as one message, without a traceback."""


class TrainerError(Exception):
    """Training cannot start or go on, and the message says what to change."""


class DataError(TrainerError):
    """The data set is damaged, or does not belong to this model."""
