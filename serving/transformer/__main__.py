# SPDX-License-Identifier: Apache-2.0
"""`python -m serving.transformer`: the transformer as a process."""

from serving.transformer.transformer import main

if __name__ == "__main__":
    main()
