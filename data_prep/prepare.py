"Check one data set and write its training-ready copy: the same as `ash-nb prepare`."

import sys

from ash_nb.cli import main

if __name__ == '__main__':
    sys.exit(main(['prepare', *sys.argv[1:]]))
