#!/bin/sh
# Installs Autobahn's test suite, which needs Python 2.7, into a folder of its own. Nothing outside of it
# is changed. Needs apt-get, dpkg, unzip, a C compiler, pip for Python 3, and a keyring of Debian.
set -eu

into=$1
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

mkdir -p "$into/lists/partial" "$into/cache/archives/partial" "$into/root" "$into/site" "$into/packages"
cd "$into"

echo "deb [signed-by=$keyring] $mirror bullseye main" >sources.list
apt() {
	apt-get -qq -o "Dir::Etc::sourcelist=$into/sources.list" -o Dir::Etc::sourceparts=- \
		-o "Dir::State::lists=$into/lists" -o "Dir::Cache=$into/cache" "$@"
}
apt update
(cd packages && apt download python2.7 python2.7-minimal libpython2.7 libpython2.7-minimal \
	libpython2.7-stdlib libpython2.7-dev python2.7-dev libffi7 libssl1.1)
for package in packages/*.deb; do
	dpkg -x "$package" root
done

cat >python <<END
#!/bin/sh
export LD_LIBRARY_PATH=$into/root/usr/lib/x86_64-linux-gnu PYTHONHOME=$into/root/usr PYTHONPATH=$into/site
export PYTHONDONTWRITEBYTECODE=1
exec $into/root/usr/bin/python2.7 "\$@"
END
chmod +x python

pip3 download -q --no-deps --only-binary :all: --python-version 2.7 --implementation py \
	-d wheels pip==20.3.4 setuptools==44.1.1 wheel==0.37.1
for wheel in wheels/*.whl; do
	unzip -qo "$wheel" -d site
done
CFLAGS="-I$into/root/usr/include/python2.7 -I$into/root/usr/include" ./python -m pip install -q \
	--disable-pip-version-check --no-warn-script-location -t site autobahntestsuite==25.10.1
touch site/zope/__init__.py
./python -c 'import autobahntestsuite'
