"""A first configuration for some logs, from what is in them, each line with its reason."""

from multisense.suggest.configuration import suggest, write_config

__all__ = ["suggest", "write_config"]
