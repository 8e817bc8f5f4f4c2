"""Sessions in one DynamoDB table. ``store`` is the session store, ``membership`` the table of hosts and their beats.

``address`` reads the URL, ``fit`` looks at the table before a host starts, ``items`` says how everything is laid out,
``transport`` sends requests, ``errors`` puts what went wrong into the words of the error tree, ``sweep`` clears away
what has expired.
"""
