"""Recorded episodes for a person's eyes: a picture (:mod:`timeline`), a Rerun recording, a layout for Foxglove."""
