"""Demonstrations for people: a live stack, its bags, videos of them and a report."""
