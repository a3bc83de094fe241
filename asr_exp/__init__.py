"""asr_exp: compose a dataset, a speech backbone and a trainer by name; get a CTC recogniser and a number to
believe.
"""

__version__ = "0.1.0"

from asr_exp.config.registration import register_schema

register_schema()
