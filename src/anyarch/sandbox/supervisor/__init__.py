"""What runs in the supervisor process: the standard library only, and nothing of anyarch outside this
package.

It is started without `site` and without the rest of anyarch, because its start is part of the first step's
cost.
"""
