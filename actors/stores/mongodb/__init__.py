"""Sessions in MongoDB, one document each. ``store`` is the session store, ``membership`` the table of hosts and beats.

``fit`` makes clients and looks at the server before a host starts, ``documents`` says how everything is laid out,
``errors`` puts what went wrong into the words of the error tree.
"""
