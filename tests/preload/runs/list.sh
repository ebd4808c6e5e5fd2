# A tree of many names.
ls -R /usr/share
