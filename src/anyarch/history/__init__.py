"""The records that daemons keep of builds: their names, what is chosen by filters, what is told of one.

Pure: records are asked of the nodes by `builder.history`, and printed by the commands.
"""
