"""`python -m finetune_agent.tracking`: what one member tells the tracker."""

import sys

from finetune_agent.tracking.tracker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
