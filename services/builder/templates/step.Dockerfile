FROM {{ base }}
USER root
COPY . /mecapy-build/
RUN ["/bin/sh", "/mecapy-build/{{ script }}"]
