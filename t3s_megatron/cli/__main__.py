# SPDX-License-Identifier: Apache-2.0
"""python -m t3s_megatron.cli"""

import sys

from t3s_megatron.cli import main

sys.exit(main())
