"""`python -m finetune_agent.preparing`: the inputs of one member."""

import sys

from finetune_agent.preparing.transfer import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
