"""``python -m lavla_ros.cli`` is ``lavla``."""

from lavla_ros.cli import main

main()
