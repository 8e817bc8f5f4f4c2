"""The session runtime: everything that happens inside one host, and nothing about where hosts are.

``actors`` never imports ``router``; ``deploy.app`` joins the two. Ray isn't imported at all,
Redis in ``stores.redis*`` only, so that the rest can be driven by a simulation.
"""
