"""The command line: a file a command, each of which calls public functions, prints a table, and with --json one document.

main       all commands, and how they end
terminal   the options and the printing that commands share
tables     tables for the terminal
export     the command export
search     the commands search, fold and retarget
search_result  the best schedule so far on disk, and what was found in a few lines
long_job   a long job as it stands, and where it goes on from
prune      the command prune
criterion  the criterion of `prune` by its name
distil     the command distil
changes    settings of `distil` by NAME=VALUE
data       the examples of `distil`, made and kept
compare    the commands demo, measure and compare
generate   the command generate
studio     the command studio
share      the commands push and pull
show       the commands macs, blocks, show and report
"""
