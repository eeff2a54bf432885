"""Whorl's own chat template: ChatML without the newline after a turn, short in tokens.

A turn costs four tokens besides its content. Tools are one compact JSON schema a line in the system
turn; a call is `<tool_call>{"name":…,"arguments":{…}}</tool_call>`; a tool's result is a turn of its
own; an image is its placeholder token; thinking goes between `<think>` and `</think>` and is kept in
later turns, so that no turn's text depends on what follows it. Content is written as it is.
"""

TOKENS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")

TEMPLATE = r"""
{%- macro content(message) -%}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content or [] -%}
            {%- if 'image' in part.type -%}
                {{- image_token or '[IMG]' -}}
            {%- else -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|im_start|>system\n' -}}
    {%- if messages and messages[0].role == 'system' -%}
        {{- content(messages[0]) + '\n' -}}
    {%- endif -%}
    {{- 'Tools:' -}}
    {%- for tool in tools -%}
        {{- '\n' + (tool.function or tool) | tojson(separators=(',', ':')) -}}
    {%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\n' -}}
        {%- generation -%}
            {%- if message.reasoning_content -%}
                {{- '<think>' + message.reasoning_content + '</think>' -}}
            {%- endif -%}
            {{- content(message) -}}
            {%- for item in message.tool_calls or [] -%}
                {%- set call = item.function or item -%}
                {%- set given = call.arguments -%}
                {{- '<tool_call>{"name":' + call.name | tojson + ',"arguments":' -}}
                {{- given if given is string else given | tojson(separators=(',', ':')) -}}
                {{- '}</tool_call>' -}}
            {%- endfor -%}
            {{- '<|im_end|>' -}}
        {%- endgeneration -%}
    {%- elif not (tools and loop.first and message.role == 'system') -%}
        {{- '<|im_start|>' + message.role + '\n' + content(message) + '<|im_end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
""".strip()
