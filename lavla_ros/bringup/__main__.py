"""``python -m lavla_ros.bringup STACK name:=value …``: start a stack as ``lavla up`` does."""

import signal
import sys

from lavla_ros.bringup.launcher import up
from lavla_ros.bringup.stack import stack_arguments
from lavla_ros.errors import one_line_errors
from lavla_ros.places import use_writable_places

signal.signal(signal.SIGTERM, signal.default_int_handler)
with one_line_errors("lavla up"):
    try:
        use_writable_places()
        sys.exit(up(sys.argv[1], stack_arguments(sys.argv[2:])))
    except KeyboardInterrupt:
        sys.exit(130)
