"""`python -m finetune_agent.uploading`: what one member keeps in the store."""

import sys

from finetune_agent.uploading.uploader import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
