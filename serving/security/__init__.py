"""Who may reach the server and what they may call: addresses, certificates, tokens, scopes. Nothing here knows gRPC.

listen.py        which addresses may be open in plain text
unix.py          a socket in the file system: bound aside, then renamed into place
certificates.py  certificate, key and authorities of a TLS port, checked before they are used
tokens.py        the file of bearer tokens, which holds only their digests
access.py        the one table of the scope that each method needs
start.py         what is checked before anything starts
watched.py       a value read from files, and read again when they change
"""
