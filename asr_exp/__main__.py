"""`python -m asr_exp [COMMAND] [GROUP=CHOICE ...] [KEY=VALUE ...]`: the first bare word is a command, without
one it is `train`.
"""

from asr_exp.cli.main import main_and_exit

if __name__ == "__main__":
    main_and_exit()
