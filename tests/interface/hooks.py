"""Puts ids that there are in the place of most that are made up, so that a call gets as far as the work itself."""

import json
import os
import uuid

import schemathesis

IDS = json.loads(os.environ["INTERFACE_IDS"])


def real(values):
    if not isinstance(values, dict):
        return values
    for name, known in IDS.items():
        try:
            made_up = uuid.UUID(values[name])
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        # Three of four; the others stay what nobody has. A mistake stays one.
        if made_up.int % 4 and str(made_up) == values[name].lower():
            values[name] = known
    return values


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    return real(path_parameters)


@schemathesis.hook
def map_query(context, query):
    return real(query)


@schemathesis.hook
def map_body(context, body):
    return real(body)
