# SPDX-License-Identifier: Apache-2.0
"""`python -m serving.predictor`: the predictor as a process."""

from serving.predictor.process import main

if __name__ == "__main__":
    main()
