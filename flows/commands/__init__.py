"""The commands of ``soapworks``, a module each."""
