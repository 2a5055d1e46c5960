"""`python -m finetune_agent.launching`: the process that launchers are forked from."""

import sys

from finetune_agent.launching.zygote import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
