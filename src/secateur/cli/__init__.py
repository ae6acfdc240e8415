"""The command line: a file a command, each of which calls public functions, prints a table, and with --json one document.

main       all commands, and how they end
terminal   the options and the printing that commands share
tables     tables for the terminal
watch      a search as it stands
"""
