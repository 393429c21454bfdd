# What the image of function {{ function_id }}, version {{ version }}, is made of. To build it yourself, put beside this file
# the code as user_function.py{% if has_requirements %} and the lock as requirements.lock{% endif %}.
FROM {{ base }}
USER root
{%- if has_requirements %}
COPY requirements.lock /tmp/requirements.lock
RUN uv pip install --python /opt/venv/bin/python --only-binary :all:{% for package in from_source %} --no-binary {{ package }}{% endfor %} --require-hashes --no-deps \
    --no-cache -r /tmp/requirements.lock \
    && { python -I -S -m compileall -q -j 0 -x '/tests?/' /opt/venv/lib >/dev/null 2>&1 || true; } \
    && rm -f /tmp/requirements.lock /opt/venv/.lock
{%- endif %}
COPY user_function.py /app/user_function.py
RUN chmod 0444 /app/user_function.py
{%- for label in labels %}
LABEL {{ label.name }}="{{ label.value }}"
{%- endfor %}
USER mecapy
WORKDIR /app
CMD ["python", "user_function.py"]
