"""Who may reach the server, and what they may call: addresses, certificates, tokens, scopes. None of it knows gRPC.

listen.py        which addresses may be open in plain text
unix.py          a socket in the file system: bound aside, then renamed into place
certificates.py  certificate, key and authorities of a TLS port, checked before they are used
tokens.py        the file of bearer tokens, which holds their digests alone
access.py        the one table of what each method asks for
start.py         what is checked before anything starts
watched.py       a value read from files, and read again when they change
"""
