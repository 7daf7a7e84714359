"""Chat templates in Jinja, written from the published descriptions of the formats: what each model's turns look like.

They differ as those in the wild do: in where the system message goes, in what is trimmed, in how roles are checked.
"""

from dataclasses import dataclass

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate: user, assistant, user, …') }}{% endif %}"
)
_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@dataclass(frozen=True)
class Format:
    """A template, the spellings of the tokens it is given, and the name of its family here."""

    source: str
    family: str
    bos: str = "<s>"
    eos: str = "</s>"
    takes_system: bool = True


def tagged(turn: str, generation: str, start: str = "", default: str = "") -> str:
    """A loop in which every role is written in the same way."""
    preset = "{% if messages[0].role != 'system' %}{{ " + repr(default) + " }}{% endif %}" if default else ""
    return (
        f"{start}{preset}{{% for message in messages %}}{{{{ {turn} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {generation!r} }}}}{{% endif %}}"
    )


def by_role(generation: str, start: str = "", **roles: str) -> str:
    """A loop with a branch for each role."""
    branches = "".join(
        f"{{% {'if' if not number else 'elif'} message.role == {role!r} %}}{{{{ {text} }}}}"
        for number, (role, text) in enumerate(roles.items())
    )
    return (
        f"{start}{{% for message in messages %}}{branches}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {generation!r} }}}}{{% endif %}}"
    )


_CHATML = "'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'"
_LLAMA_3 = "'<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>'"
_LLAMA_3_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_SYSTEM_APART = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
)

FORMATS = {
    "chatml": Format(tagged(_CHATML, "<|im_start|>assistant\n"), "ChatML"),
    "chatml with a system message of its own": Format(
        tagged(
            _CHATML, "<|im_start|>assistant\n", default="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        ),
        "ChatML",
    ),
    "chatml that may think": Format(
        "{%- for message in messages %}{%- set content = message.content %}"
        "{%- if message.role == 'assistant' and '</think>' in content %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
        "{%- endif %}",
        "ChatML",
    ),
    "llama 2": Format(
        _SYSTEM_APART + "{% for message in messages %}" + _ALTERNATE + "{% if loop.first and system %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message.content %}"
        "{% else %}{% set content = message.content %}{% endif %}"
        "{% if message.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "Llama 2",
    ),
    "llama 3": Format(
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + _LLAMA_3_ANSWER + "' }}{% endif %}",
        "Llama 3",
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "llama 3.1": Format(
        "{{- bos_token }}" + _SYSTEM_APART + "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
        "{{- 'Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' }}{{- system }}{{- '<|eot_id|>' }}"
        + tagged(_LLAMA_3, _LLAMA_3_ANSWER),
        "Llama 3",
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "llama 4": Format(
        "{{- bos_token }}"
        + tagged(
            "'<|header_start|>' + message.role + '<|header_end|>\\n\\n' + message.content | trim + '<|eot|>'",
            "<|header_start|>assistant<|header_end|>\n\n",
        ),
        "Llama 4",
        "<|begin_of_text|>",
        "<|eot|>",
    ),
    "mistral v0.1": Format(
        "{{ bos_token }}{% for message in messages %}"
        + _ALTERNATE
        + "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
        "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}",
        "Mistral (v1)",
        takes_system=False,
    ),
    "mistral v3, the system message before the last question": Format(
        _SYSTEM_APART + "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        "{% if loop.last and system %}{{ '[INST] ' + system + '\\n\\n' + message.content + ' [/INST]' }}"
        "{% else %}{{ '[INST] ' + message.content + ' [/INST]' }}{% endif %}"
        "{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}",
        "Mistral",
    ),
    "mistral tekken, the system message before the first question": Format(
        _SYSTEM_APART + "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        "{{ '[INST]' + (system + '\\n\\n' if loop.first and system else '') + message.content + '[/INST]' }}"
        "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}",
        "Mistral (Tekken)",
    ),
    "mistral v7": Format(
        by_role(
            "",
            "{{ bos_token }}",
            system="'[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]'",
            user="'[INST]' + message.content + '[/INST]'",
            assistant="message.content + eos_token",
        ).replace("{{ '' }}", ""),
        "Mistral (v7)",
    ),
    "gemma 2": Format(
        "{{ bos_token }}"
        + _NO_SYSTEM
        + "{% for message in messages %}"
        + _ALTERNATE
        + "{% set role = 'model' if message.role == 'assistant' else message.role %}"
        "{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "Gemma",
        "<bos>",
        "<eos>",
        takes_system=False,
    ),
    "gemma 3": Format(
        "{{ bos_token }}" + _SYSTEM_APART + "{% for message in messages %}"
        "{% set role = 'model' if message.role == 'assistant' else message.role %}"
        "{{ '<start_of_turn>' + role + '\\n' + (system + '\\n\\n' if loop.first and system else '') }}"
        "{{ message.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "Gemma",
        "<bos>",
        "<eos>",
    ),
    "phi 3": Format(
        tagged("'<|' + message.role + '|>\\n' + message.content + '<|end|>\\n'", "<|assistant|>\n"), "Phi 3"
    ),
    "phi 4": Format(
        tagged(
            "'<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>'",
            "<|im_start|>assistant<|im_sep|>",
        ),
        "Phi 4",
    ),
    "phi 4 mini": Format(
        tagged("'<|' + message.role + '|>' + message.content + '<|end|>'", "<|assistant|>"), "Phi 4 mini"
    ),
    "zephyr": Format(
        tagged("'<|' + message.role + '|>\\n' + message.content + eos_token + '\\n'", "<|assistant|>\n"), "Zephyr"
    ),
    "tulu": Format(
        by_role(
            "<|assistant|>\n",
            "{{ bos_token }}",
            system="'<|system|>\\n' + message.content + '\\n'",
            user="'<|user|>\\n' + message.content + '\\n'",
            assistant="'<|assistant|>\\n' + message.content + eos_token + '\\n'",
        ),
        "Tulu and OLMo",
    ),
    "deepseek v1 and v2": Format(
        by_role(
            "Assistant:",
            "{{ bos_token }}",
            system="message.content + '\\n\\n'",
            user="'User: ' + message.content + '\\n\\n'",
            assistant="'Assistant: ' + message.content + eos_token",
        ),
        "DeepSeek",
        "<\uff5cbegin▁of▁sentence\uff5c>",
        "<\uff5cend▁of▁sentence\uff5c>",
    ),
    "deepseek coder": Format(
        by_role(
            "### Response:",
            "{{ bos_token }}"
            "{% if messages[0].role != 'system' %}{{ 'You are an AI programming assistant.\\n' }}{% endif %}",
            system="message.content",
            user="'### Instruction:\\n' + message.content + '\\n'",
            assistant="'### Response:\\n' + message.content + '\\n<|EOT|>\\n'",
        ),
        "DeepSeek Coder",
    ),
    "deepseek v3 and r1": Format(
        by_role(
            "<\uff5cAssistant\uff5c>",
            "{{ bos_token }}",
            system="message.content",
            user="'<\uff5cUser\uff5c>' + message.content",
            assistant="'<\uff5cAssistant\uff5c>' + message.content + '<\uff5cend▁of▁sentence\uff5c>'",
        ),
        "DeepSeek V3 and R1",
        "<\uff5cbegin▁of▁sentence\uff5c>",
        "<\uff5cend▁of▁sentence\uff5c>",
    ),
    "deepseek r1, which begins to think": Format(
        "{{ bos_token }}" + _SYSTEM_APART + "{{ system }}{% for message in messages %}{% if message.role == 'user' %}"
        "{{ '<\uff5cUser\uff5c>' + message.content }}{% else %}"
        "{{ '<\uff5cAssistant\uff5c>' + message.content.split('</think>')[-1] }}"
        "{{ '<\uff5cend▁of▁sentence\uff5c>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}",
        "DeepSeek V3 and R1",
        "<\uff5cbegin▁of▁sentence\uff5c>",
        "<\uff5cend▁of▁sentence\uff5c>",
    ),
    "command r": Format(
        "{{ bos_token }}{% if messages[0].role != 'system' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>You are Command-R.<|END_OF_TURN_TOKEN|>' }}{% endif %}"
        + by_role(
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            **{
                role: f"'<|START_OF_TURN_TOKEN|><|{name}_TOKEN|>' + message.content.strip() + '<|END_OF_TURN_TOKEN|>'"
                for role, name in (("system", "SYSTEM"), ("user", "USER"), ("assistant", "CHATBOT"))
            },
        ),
        "Command R",
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
    ),
    "granite 3": Format(
        tagged(
            "'<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content + '<|end_of_text|>\\n'",
            "<|start_of_role|>assistant<|end_of_role|>",
            default="<|start_of_role|>system<|end_of_role|>You are Granite, developed by IBM.<|end_of_text|>\n",
        ),
        "Granite 3 and 4",
    ),
    "granite code": Format(
        by_role(
            "Answer:\n",
            system="'System:\\n' + message.content + '\\n\\n'",
            user="'Question:\\n' + message.content + '\\n\\n'",
            assistant="'Answer:\\n' + message.content + '\\n\\n'",
        ),
        "Granite (code)",
    ),
    "glm 4": Format(
        tagged("'<|' + message.role + '|>\\n' + message.content", "<|assistant|>\n", start="[gMASK]<sop>"), "GLM 4"
    ),
    "vicuna": Format(
        _SYSTEM_APART + "{{ (system or 'A chat between a curious user and an assistant.') + ' ' }}"
        "{% for message in messages %}{% if message.role == 'user' %}{{ 'USER: ' + message.content + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + message.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "Vicuna",
    ),
    "alpaca": Format(
        by_role(
            "### Response:\n",
            system="message.content + '\\n\\n'",
            user="'### Instruction:\\n' + message.content + '\\n\\n'",
            assistant="'### Response:\\n' + message.content + '\\n\\n'",
        ),
        "Alpaca",
    ),
    "openchat": Format(
        by_role(
            "GPT4 Correct Assistant:",
            "{{ bos_token }}",
            system="message.content + '<|end_of_turn|>'",
            user="'GPT4 Correct User: ' + message.content + '<|end_of_turn|>'",
            assistant="'GPT4 Correct Assistant: ' + message.content + '<|end_of_turn|>'",
        ),
        "OpenChat",
    ),
    "falcon": Format(
        by_role(
            "Falcon:",
            system="'System: ' + message.content + '\\n\\n'",
            user="'User: ' + message.content + '\\n\\n'",
            assistant="'Falcon: ' + message.content + '\\n\\n'",
        ),
        "Falcon",
    ),
    "falcon 3": Format(
        by_role(
            "<|assistant|>\n",
            system="'<|system|>\\n' + message.content + '\\n'",
            user="'<|user|>\\n' + message.content + '\\n'",
            assistant="'<|assistant|>\\n' + message.content + eos_token + '\\n'",
        ),
        "Tulu and OLMo",  # the same turns
    ),
    "solar": Format(
        by_role(
            "### Assistant:\n",
            **{
                role: f"'### {role.title()}:\\n' + message.content + '\\n\\n'"
                for role in ("system", "user", "assistant")
            },
        ),
        "SOLAR",
    ),
    "exaone": Format(
        by_role(
            "[|assistant|]",
            "{% if messages[0].role != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}",
            system="'[|system|]' + message.content + '[|endofturn|]\\n'",
            user="'[|user|]' + message.content + '\\n'",
            assistant="'[|assistant|]' + message.content + '[|endofturn|]\\n'",
        ),
        "EXAONE",
    ),
    "of a family that nobody knows": Format(
        by_role(
            "((robot)) ",
            "~~~\n",
            system="'((law)) ' + message.content + ' ;;\\n'",
            user="'((human)) ' + message.content + ' ;;\\n'",
            assistant="'((robot)) ' + message.content + ' !!\\n'",
        ),
        "",
    ),
}
