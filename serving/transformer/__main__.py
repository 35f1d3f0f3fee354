# SPDX-License-Identifier: Apache-2.0
"""`python -m serving.transformer`: the transformer as a process."""

from serving.transformer.process import main

if __name__ == "__main__":
    main()
