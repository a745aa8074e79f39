"""Parts of the controller emulator; :mod:`lavla_ros.jaka.emulator` puts them together."""
